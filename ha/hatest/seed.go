package hatest

import (
	"math"
	"math/rand/v2"
	"time"
)

// splitMix is one step of SplitMix64: a bijection that scatters.
func splitMix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb
	return x ^ (x >> 31)
}

const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

// digest is an FNV-1a hash that is built up without allocating.
type digest uint64

func newDigest() digest { return fnvOffset }

func (d digest) str(s string) digest {
	for i := range len(s) {
		d = (d ^ digest(s[i])) * fnvPrime
	}
	return (d ^ 0xff) * fnvPrime // "ab", "c" is not "a", "bc"
}

func (d digest) bytes(b []byte) digest {
	for _, c := range b {
		d = (d ^ digest(c)) * fnvPrime
	}
	return (d ^ 0xff) * fnvPrime
}

func (d digest) num(n uint64) digest {
	for range 8 {
		d = (d ^ digest(n&0xff)) * fnvPrime
		n >>= 8
	}
	return d
}

// stream names an independent source of randomness of a run. A draw from one
// never shifts another.
type stream string

const (
	streamTopology  stream = "topology"
	streamFaults    stream = "faults"
	streamPlanned   stream = "planned"
	streamGuard     stream = "guard"
	streamExits     stream = "exits"
	streamHangs     stream = "hangs"
	streamOutages   stream = "outages"
	streamNetwork   stream = "network"
	streamJitter    stream = "jitter"
	streamWorkload  stream = "workload"
	streamDurations stream = "durations"
)

// streamSeed derives the seed of a stream from that of the run.
func streamSeed(seed uint64, s stream) uint64 {
	return splitMix(seed ^ uint64(newDigest().str(string(s))))
}

// newRand is a generator for what is drawn in order, as a plan is.
func newRand(seed uint64, s stream) *rand.Rand {
	first := streamSeed(seed, s)
	return rand.New(rand.NewPCG(first, splitMix(first))) //nolint:gosec // repeatable on purpose
}

// noise is randomness by identity: the same thing that happens in two runs of a
// seed gets the same number, whatever else happens in them. It is what makes a
// plan shrink: without one of its events everything else stays as it was.
type noise struct{ seed uint64 }

func newNoise(seed uint64, s stream) noise { return noise{streamSeed(seed, s)} }

// of is the noise of one identity, for what.
func (n noise) of(what string, id digest) roll {
	return roll(splitMix(n.seed ^ uint64(newDigest().str(what).num(uint64(id)))))
}

// roll is one number of noise.
type roll uint64

// unit is from 0 (included) to 1 (excluded).
func (r roll) unit() float64 { return float64(r>>11) / (1 << 53) }

func (r roll) chance(p float64) bool { return r.unit() < p }

// between spreads evenly.
func (r roll) between(low, high time.Duration) time.Duration {
	return low + time.Duration(r.unit()*float64(high-low))
}

// spread is logarithmic: as often between 1 and 10 ms as between 10 and 100.
func (r roll) spread(low, high time.Duration) time.Duration {
	if low <= 0 || high <= low {
		return max(low, 0)
	}
	return time.Duration(float64(low) * math.Pow(float64(high)/float64(low), r.unit()))
}

// noisyReader gives a node random bytes that depend on nothing but their place.
type noisyReader struct {
	noise noise
	id    digest
	count uint64
}

func (r *noisyReader) Read(p []byte) (int, error) {
	for i := range p {
		if i%8 == 0 {
			r.count++
		}
		p[i] = byte(r.noise.of("rand", r.id.num(r.count)) >> (8 * (i % 8)) & 0xff)
	}
	return len(p), nil
}
