package progress

import (
	"strconv"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// stepName is how BuildKit names a step of a Dockerfile: "[2/5] RUN make", "[linux/arm64 build 2/5] RUN make".
var stepName = pattern.New(`^\[(?:[^\]]* )?([0-9]{1,4})/([0-9]{1,4})\] (.*)$`)

// maxStepName bounds the name of a step where it is only shown for a while.
const maxStepName = 200

// StepOf reads at which step of how many a build is from the step's name, which is already cleaned; false when it is none.
func StepOf(name string) (api.BuildStep, bool) {
	m := stepName.FindStringSubmatch(oneLine(name))
	if m == nil {
		return api.BuildStep{}, false
	}
	n, _ := strconv.Atoi(m[1]) // four digits
	of, _ := strconv.Atoi(m[2])
	if n > of || of == 0 {
		return api.BuildStep{}, false
	}
	text := []rune(m[3])
	return api.BuildStep{Step: n, Of: of, Name: string(text[:min(len(text), maxStepName)])}, true
}

// OnStep has a function told of each step that begins.
func (p *Printer) OnStep(told func(api.BuildStep)) { p.told = told }
