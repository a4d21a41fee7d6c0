package registry

import (
	"io"
	"log/slog"

	"github.com/sirupsen/logrus"
)

// quiet takes the library's log over. It writes through logrus' one global logger, a line for every blob that is asked for
// and not there; ours already has a line for every request. What it calls an error of unknown kind is worth a warning, the
// rest is for debugging.
func quiet(log *slog.Logger) {
	std := logrus.StandardLogger()
	std.SetOutput(io.Discard)
	std.SetLevel(logrus.WarnLevel)
	std.ReplaceHooks(logrus.LevelHooks{logrus.ErrorLevel: {bridge{log}}, logrus.WarnLevel: {bridge{log}}})
}

type bridge struct{ log *slog.Logger }

func (bridge) Levels() []logrus.Level { return []logrus.Level{logrus.ErrorLevel, logrus.WarnLevel} }

func (b bridge) Fire(e *logrus.Entry) error {
	if code, ok := e.Data["err.code"]; ok && code != nil {
		if s, ok := code.(interface{ String() string }); ok && s.String() == "UNKNOWN" {
			b.log.Warn("registry storage", "message", e.Message, "detail", e.Data["err.detail"])
			return nil
		}
	}
	b.log.Debug("registry library", "message", e.Message)
	return nil
}
