package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// programVersion is the version of the module that this program was built
// from: "v0.1.0", or "devel" for a working tree.
func programVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "devel"
	}
	return info.Main.Version
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Say which version this is",
		Args:  cobra.NoArgs,
		RunE: a.command(func(*cobra.Command) error {
			return a.print(fmt.Sprintf("pghad %s (%s, %s/%s)\n", programVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH))
		}),
	}
}

// print writes a result to Out. A result that nobody gets is a failure.
func (a *app) print(text string) error {
	if _, err := fmt.Fprint(a.Out, text); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	return nil
}
