package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// app is what the commands of one run share.
type app struct {
	ui       *ui
	logger   *slog.Logger
	logLevel string
	net      netFlags
	msg      messageFlags
	super    bool // seed --super
	started  bool // a command's own code runs: arguments and flags were right
}

// run runs one command line and returns the exit code. Everything the program does goes through it; when ctx ends, the command
// ends in good order, and the code is exitInterrupted unless that is how the command is meant to end.
func run(ctx context.Context, args []string, io stdio) int {
	cmdCtx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	a := &app{ui: &ui{stdio: io, stop: stop}}
	root := a.rootCmd()
	root.SetArgs(args)
	root.SetIn(io.in)
	root.SetOut(writerFunc(a.ui.writeOut))
	root.SetErr(writerFunc(a.ui.writeErr))

	cmd, err := root.ExecuteContextC(cmdCtx)
	if outErr := a.ui.failed(); outErr != nil {
		err = &cmdError{code: exitFailure, err: outErr} // what came of it besides is a consequence
	}
	if err == nil {
		return exitOK
	}
	if !a.started && asksJSON(args) {
		a.ui.json = true // though it may stand behind what is wrong
	}
	code, hint := classify(err)
	ce, known := errors.AsType[*cmdError](err)
	switch {
	case ctx.Err() != nil && (!known || ce.code == exitInterrupted):
		code = exitInterrupted
		if !known {
			err = errors.New("interrupted")
			hint = ""
		}
	case !a.started && !known:
		code, hint = exitUsage, "usage: "+cmd.UseLine()+`; run "`+cmd.CommandPath()+` --help" for more`
	}
	a.ui.report(err, code, hint)
	return code
}

const rootLong = `parley shares and fetches torrents with any BitTorrent client, and carries typed messages between the peers of a swarm.

Try it on one machine, in two terminals:

  parley seed FILE                        prints a magnet link, and the command line for the other side:
  parley get 'magnet:…' --peer 127.0.0.1:6881 -o /tmp/copy

  parley listen FILE --type hello --echo  serves FILE, prints every message of type "hello" and returns it
  parley send 'magnet:…' --peer 127.0.0.1:6881 --type hello --wait 2s 'Hi there'

` + sourceHelp + `.
Peers are named with --peer, or found through trackers (those of the torrent or link, and --tracker),
in the DHT (--dht) and on the local network (--lsd).`

func (a *app) rootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:   "parley",
		Short: "Share, fetch and talk over BitTorrent",
		Long:  rootLong,
		// A word that is no command ends up here.
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return unknownCommand(cmd, "parley ", args[0])
		},
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors: true, // run prints them, escaped
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := missingFlag(cmd); err != nil {
				return err
			}
			var level slog.Level
			if !slices.Contains(logLevels, a.logLevel) || level.UnmarshalText([]byte(a.logLevel)) != nil {
				return failf(exitUsage, "use one of "+strings.Join(logLevels, ", "), "--log-level %q: unknown level", a.logLevel)
			}
			a.logger, a.ui.quiet = a.ui.logger(level), a.ui.json
			return nil
		},
	}
	root.SuggestionsMinimumDistance = 2
	root.PersistentFlags().BoolVar(&a.ui.json, "json", false, `print one JSON object per line on standard output and nothing else (see "parley help events")`)
	root.PersistentFlags().StringVar(&a.logLevel, "log-level", "warn", "log to standard error from `LEVEL` on: "+strings.Join(logLevels, ", "))
	must(root.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions(logLevels, cobra.ShellCompDirectiveNoFileComp)))
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(
		a.createCmd(), a.showCmd(), a.verifyCmd(), a.seedCmd(), a.getCmd(), a.listenCmd(), a.sendCmd(), a.trackerCmd(), a.probeCmd(), a.identityCmd(), a.versionCmd(), a.manCmd(),
		&cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: "The exit codes of parley:\n\n" + exitCodeText()},
		&cobra.Command{Use: "events", Short: "The JSON lines of --json and listen", Long: eventHelp},
	)
	root.CompletionOptions.DisableDescriptions = false
	helpKnowsItsTopics(root)
	fitHelp(root, a.ui.columns)
	return root
}

// unknownCommand is the error for a word that is no command of cmd; before stands before a command in the user's next try.
func unknownCommand(cmd *cobra.Command, before, word string) error {
	hint := `run "parley help" for the commands`
	if near := cmd.SuggestionsFor(word); len(near) > 0 {
		hint = "did you mean: " + before + strings.Join(near, ", "+before) + "?"
	}
	return failf(exitUsage, hint, "unknown command %q", word)
}

// helpKnowsItsTopics has the help command refuse what there is no help on.
func helpKnowsItsTopics(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	help, _, err := root.Find([]string{"help"})
	must(err)
	help.Run = nil
	help.RunE = func(_ *cobra.Command, args []string) error {
		topic, rest, err := root.Find(args)
		if err == nil && len(rest) > 0 {
			err = unknownCommand(root, "parley help ", strings.Join(args, " "))
		}
		if err != nil {
			return err
		}
		topic.InitDefaultHelpFlag() // which the help lists
		return topic.Help()
	}
}

// asksJSON reports whether a command line that could not be parsed has --json.
func asksJSON(args []string) bool {
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	return slices.Contains(args, "--json")
}

var logLevels = []string{"error", "warn", "info", "debug"}

// runs wraps the code of a command.
func (a *app) runs(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.started = true
		return f(cmd.Context(), args)
	}
}

// wants is an argument check that says what is expected instead of counting.
func wants(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		hint := "usage: parley " + cmd.Use
		switch {
		case len(args) < n:
			return failf(exitUsage, hint, "%s: %s is missing", cmd.Name(), what)
		case len(args) > n:
			return failf(exitUsage, hint+"; put what holds spaces or & in quotes", "%s: too many arguments, from %q on", cmd.Name(), args[n])
		}
		return nil
	}
}

// wantsSome is wants for one argument or more.
func wantsSome(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return wants(1, what)(cmd, args)
		}
		return nil
	}
}

// noFiles keeps shells from offering file names as values of flags that take none.
func noFiles(cmd *cobra.Command, flags ...string) {
	for _, f := range flags {
		must(cmd.RegisterFlagCompletionFunc(f, cobra.NoFileCompletions))
	}
}

// must guards the wiring of flags: an error is a misspelt flag name in this program, found by any test.
func must(err error) {
	if err != nil {
		panic("parley: " + err.Error())
	}
}
