package member

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/pghad/pghad/internal/app/config"
)

// retention is how long old states of the records are kept. Nobody reads them.
const retention = "1h"

// Run is the hidden command member: it serves as the member that cfg describes
// until parent, its standard input, ends.
func Run(ctx context.Context, cfg *config.Config, parent io.Reader) error {
	if cfg.DCS.Type != config.StoreEmbedded {
		return errors.New("member is for pghad's own use, where dcs.type is embedded")
	}
	settings, err := etcdConfig(cfg)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.DCS.Embedded.DataDir, 0o700); err != nil {
		return cfg.Problem("dcs.embedded.data_dir", err.Error())
	}
	server, err := embed.StartEtcd(settings)
	if err != nil {
		return fmt.Errorf("start the member of the embedded store: %w", err)
	}
	defer server.Close()
	ended := make(chan struct{})
	go func() { // ends with the process
		_, _ = io.Copy(io.Discard, parent) // whatever ends it
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return nil
	case err := <-server.Err():
		return fmt.Errorf("member of the embedded store: %w", err)
	}
}

// etcdConfig is what the member is in etcd's terms.
func etcdConfig(cfg *config.Config) (*embed.Config, error) {
	c := cfg.DCS.Embedded
	client, err := url.Parse(c.Listen)
	if err != nil {
		return nil, cfg.Problem("dcs.embedded.listen", err.Error()) // has been checked
	}
	peer, err := url.Parse(c.Members[cfg.Node])
	if err != nil {
		return nil, cfg.Problem("dcs.embedded.members", err.Error()) // has been checked
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(c.Members)) {
		all = append(all, name+"="+c.Members[name])
	}
	settings := embed.NewConfig()
	settings.Name = cfg.Node
	settings.Dir = c.DataDir
	settings.ListenClientUrls, settings.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	settings.ListenPeerUrls, settings.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	settings.InitialCluster = strings.Join(all, ",")
	settings.InitialClusterToken = cfg.Namespace + "/" + cfg.Cluster
	settings.AutoCompactionRetention = retention
	settings.LogLevel = "warn"
	settings.LogOutputs = []string{"stderr"}
	if files := cfg.DCS.TLS; !files.IsZero() {
		for _, info := range []*struct{ cert, key, ca *string }{
			{&settings.ClientTLSInfo.CertFile, &settings.ClientTLSInfo.KeyFile, &settings.ClientTLSInfo.TrustedCAFile},
			{&settings.PeerTLSInfo.CertFile, &settings.PeerTLSInfo.KeyFile, &settings.PeerTLSInfo.TrustedCAFile},
		} {
			*info.cert, *info.key, *info.ca = files.CertFile, files.KeyFile, files.CAFile
		}
		mutual := files.CAFile != ""
		settings.ClientTLSInfo.ClientCertAuth, settings.PeerTLSInfo.ClientCertAuth = mutual, mutual
	}
	return settings, nil
}
