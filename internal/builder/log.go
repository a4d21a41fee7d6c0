package builder

import (
	"io"
	"log/slog"

	"github.com/sirupsen/logrus"
)

// quiet takes over what the libraries of this role log: containerd's store, BuildKit's client and the compose loader write
// through logrus' one global logger, raw onto standard error. Their warnings are about things that we handle (a file system
// without fs-verity) or that are the pusher's business (a variable without a value), so they are for debugging.
func quiet(log *slog.Logger) {
	std := logrus.StandardLogger()
	std.SetOutput(io.Discard)
	std.SetLevel(logrus.WarnLevel)
	std.ReplaceHooks(logrus.LevelHooks{logrus.ErrorLevel: {bridge{log}}, logrus.WarnLevel: {bridge{log}}})
}

type bridge struct{ log *slog.Logger }

// Levels implements logrus.Hook, as does Fire.
func (bridge) Levels() []logrus.Level { return []logrus.Level{logrus.ErrorLevel, logrus.WarnLevel} }

func (b bridge) Fire(e *logrus.Entry) error {
	level := slog.LevelDebug
	if e.Level == logrus.ErrorLevel {
		level = slog.LevelWarn
	}
	attrs := []slog.Attr{slog.String("message", e.Message)}
	if err, ok := e.Data[logrus.ErrorKey]; ok {
		attrs = append(attrs, slog.Any("error", err))
	}
	b.log.LogAttrs(e.Context, level, "builder library", attrs...)
	return nil
}
