package cli

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/app/clusterview"
)

func (a *app) why() *cobra.Command {
	return a.reader(reader{
		use:   "why",
		short: "Explain the state of a cluster: are writes accepted, and if not, what is waited for",
		long: `why reads the records of a cluster once and explains them. First it says whether
writes are accepted, and what is waited for if not; then who holds which lock, the
quorum counted out, the running or last election with its votes and with the
words of those who have not voted, the running or last switchover, maintenance,
and what each node says of itself.

What it reads is self-reported by the nodes and some moments old. The exit code
says that the records could be read, not what they say; see "verdict" in -o json.`,
		show: func(namespace, cluster string, records record.Cluster) (any, func(io.Writer) error) {
			explanation := clusterview.Explain(namespace, cluster, records)
			return explanation, func(w io.Writer) error { return clusterview.WriteExplanation(w, explanation) }
		},
	})
}
