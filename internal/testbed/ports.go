package testbed

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
)

// Ports are taken from below the range that the kernel gives to outgoing
// connections. A port from that range can be taken by a client's end while its
// server is down for a moment; worse, a client that tries the port of a dead
// server can then be connected with itself.
const (
	lowestPort      = 10000
	usualRangeStart = 32768
)

// handedOut are the ports that this process has been given; each is given once.
var handedOut struct {
	sync.Mutex
	ports map[int]net.Listener // what keeps other processes from them; nil where nothing can
}

// claim keeps a port for this process, for the rest of its life, among all that ask
// FreePorts: by an abstract socket, which vanishes with the process.
func claim(port int) (net.Listener, error) {
	if runtime.GOOS != "linux" {
		return nil, nil //nolint:nilnil // nothing is held where nothing can be
	}
	return net.Listen("unix", fmt.Sprintf("@pghad-port-%d", port))
}

// FreePorts finds n loopback ports that nobody listens on at the moment, and that no
// other process has been given in this way.
func FreePorts(n int) ([]int, error) {
	handedOut.Lock()
	defer handedOut.Unlock()
	if handedOut.ports == nil {
		handedOut.ports = make(map[int]net.Listener)
	}
	end := outgoingStart()
	ports := make([]int, 0, n)
	var last error
	for tries := 0; len(ports) < n && tries < 1000; tries++ {
		port := lowestPort + rand.IntN(end-lowestPort) //nolint:gosec // not a secret
		if _, given := handedOut.ports[port]; given {
			continue
		}
		claimed, err := claim(port)
		if err != nil {
			last = err
			continue
		}
		handedOut.ports[port] = claimed // also if somebody else listens: not again
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			last = err
			continue
		}
		if err := listener.Close(); err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		ports = append(ports, port)
	}
	if len(ports) < n {
		return nil, fmt.Errorf("find %d free ports between %d and %d: %w", n, lowestPort, end, last)
	}
	return ports, nil
}

// outgoingStart is where the kernel's range for outgoing connections begins.
func outgoingStart() int {
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return usualRangeStart
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(data)), "\t")
	start, err := strconv.Atoi(first)
	if err != nil || start < lowestPort+1000 {
		return usualRangeStart
	}
	return start
}
