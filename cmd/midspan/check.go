package main

import (
	"github.com/spf13/cobra"

	"midspan/internal/config"
)

func checkCommand(ui *ui) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "check FILE",
		Short: "Report every problem of a file; nothing is started",
		Long: `Report every problem of a file, each as file:line:col, and what to write instead.
The exit code is 0 when the file can be run, 1 when it cannot, 2 when it could
not be read. Warnings alone leave it at 0. Certificates and keys that the file names
are read too.`,
		Example: "  midspan check midspan.yaml\n  midspan import nginx nginx.conf | midspan check -",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			p, warnings, err := ui.loadWithFiles(args[0])
			problems, isProblems := asProblems(err)
			if err != nil && !isProblems {
				return err
			}
			if asJSON {
				err = ui.json(map[string]any{"ok": len(problems) == 0, "problems": orEmpty(problems), "warnings": orEmpty(warnings)})
			} else {
				ui.problems("error", red, problems)
				ui.problems("warning", yellow, warnings)
				if len(problems) == 0 {
					ui.say("%s is fine: %s, %s", shown(args[0]), count(len(p.Routes), "route"), count(len(warnings), "warning"))
				} else {
					ui.say("%s cannot be run: %s", shown(args[0]), count(len(problems), "problem"))
				}
			}
			if len(problems) > 0 {
				return errNo
			}
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print problems and warnings as JSON")
	return c
}

// orEmpty keeps JSON from saying null.
func orEmpty(ps config.Problems) config.Problems {
	if ps == nil {
		return config.Problems{}
	}
	return ps
}
