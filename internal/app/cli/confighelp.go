package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/pghad/pghad/internal/app/config"
)

// configHelp is a help topic, shown by "pghad help config".
func configHelp() *cobra.Command {
	var text strings.Builder
	_ = config.WriteReference(&text) // into memory
	return &cobra.Command{
		Use:   "config",
		Short: "Every key of the configuration, with its environment variable and default",
		Long:  strings.TrimSpace(text.String()),
	}
}
