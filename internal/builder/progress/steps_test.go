package progress_test

import (
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/progress"
)

func TestStepsAreReadFromTheirNames(t *testing.T) {
	for name, want := range map[string]api.BuildStep{
		"[2/5] RUN make":                      {Step: 2, Of: 5, Name: "RUN make"},
		"[build 2/5] RUN  make\n  all":        {Step: 2, Of: 5, Name: "RUN make all"},
		"[linux/arm64 build 12/50] COPY . /x": {Step: 12, Of: 50, Name: "COPY . /x"},
		"[internal] load .dockerignore":       {},
		"[6/5] RUN x":                         {},
		"[99999/99999] RUN x":                 {},
		"exporting to image":                  {},
		"[1/0] x":                             {},
	} {
		if got, ok := progress.StepOf(name); got != want || ok != (want.Of > 0) {
			t.Errorf("%q: got %+v, %v, want %+v", name, got, ok, want)
		}
	}
	if got, _ := progress.StepOf("[1/1] RUN " + strings.Repeat("é", 9999)); len([]rune(got.Name)) != 200 {
		t.Errorf("a long name has %d characters", len([]rune(got.Name)))
	}
}
