package builder_test

import (
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder"
)

func TestATemplateIsFilledInEverywhere(t *testing.T) {
	values := map[string]string{"MACHINE_NAME": "raspberrypi4-64", "ARCH": "aarch64", "APP_NAME": "Grüße", "RELEASE_HASH": strings.Repeat("ab", 16), "SERVICE_NAME": "web"}
	got, unknown, err := builder.FillTemplate("Dockerfile.template",
		"FROM base/%%BALENA_ARCH%%:%%RESIN_MACHINE_NAME%%\nLABEL a=%%BALENA_APP_NAME%%-%%BALENA_SERVICE_NAME%%\nENV R=\"%%RESIN_RELEASE_HASH%%\" 50%% %%OTHER%% %%BALENA_ODD%%%%BALENA_ODD%%\n", values)
	if err != nil {
		t.Fatal(err)
	}
	want := "FROM base/aarch64:raspberrypi4-64\nLABEL a=Grüße-web\nENV R=\"" + strings.Repeat("ab", 16) + "\" 50%% %%OTHER%% %%BALENA_ODD%%%%BALENA_ODD%%\n"
	if got != want {
		t.Errorf("filled in: %q, want %q", got, want)
	}
	if diff := cmp.Diff([]string{"%%BALENA_ODD%%"}, unknown); diff != "" {
		t.Errorf("unknown names (-want +got):\n%s", diff)
	}
}

// The attack: a fleet, device type or service whose name is more than a name in the place where a template has it.
func TestATemplatesValueIsNoInstruction(t *testing.T) {
	for _, evil := range []string{"x\nRUN evil", "x\\", "x y", `x" evil="`, "$(evil)", "${EVIL}", "x#y", "x'y", "-x", "", "x\x00", "x;y", "x%%y", "x\u2028y", strings.Repeat("x", 50) + "/../y"} {
		_, _, err := builder.FillTemplate("Dockerfile.template", "LABEL a=%%BALENA_APP_NAME%%\n", map[string]string{"APP_NAME": evil})
		if api.AsError(err).Code != api.Invalid || !strings.Contains(err.Error(), "BALENA_APP_NAME") {
			t.Errorf("%q was put into a Dockerfile: %v", evil, err)
		}
		// Where it is not used it does no harm.
		if _, _, err := builder.FillTemplate("Dockerfile.template", "FROM x\n", map[string]string{"APP_NAME": evil}); err != nil {
			t.Errorf("%q is in the way although nothing asks for it: %v", evil, err)
		}
	}
	// A short text must not grow without bounds.
	if _, _, err := builder.FillTemplate("Dockerfile.template", strings.Repeat("%%RESIN_APP_NAME%%", 50_000), map[string]string{"APP_NAME": strings.Repeat("x", 200)}); api.AsError(err).Code != api.TooLarge {
		t.Errorf("a template that grows: %v", err)
	}
}

func TestStepsAreGivenSecretsWhereTheyBegin(t *testing.T) {
	const mount = " --mount=type=secret,id=a/b,target=/run/secrets/a/b,mode=0444 "
	in := "# RUN no\nFROM x\nRUN one\n  run --mount=type=cache,target=/c \\\n  # RUN no\n  two && \\\nRUN three\nRUN <<EOF\nRUN no\nEOF\nCOPY RUN /\nONBUILD RUN no\nRUN [\"four\"]"
	want := "# RUN no\nFROM x\nRUN" + mount + " one\n  run" + mount + " --mount=type=cache,target=/c \\\n  # RUN no\n  two && \\\nRUN three\nRUN" + mount +
		" <<EOF\nRUN no\nEOF\nCOPY RUN /\nONBUILD RUN no\nRUN" + mount + " [\"four\"]"
	if diff := cmp.Diff(want, builder.WithSecrets(in, []string{"a/b"})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, same := range []string{"", "not a Dockerfile <<", "FROM x\n"} {
		if got := builder.WithSecrets(same, []string{"a"}); got != same {
			t.Errorf("%q became %q", same, got)
		}
	}
}

// The attack: a Dockerfile that is a link to what is not the project's, and other ways out of it.
func TestADockerfileOutsideIsRefused(t *testing.T) {
	w := newWorld(t, "unix:///nonexistent/buildkitd.sock", builder.Limits{})
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"absolute": {map[string]string{"Dockerfile@": "/etc/passwd"}, "links that lead outside"},
		"up":       {map[string]string{"Dockerfile@": "../../etc/passwd"}, "links that lead outside"},
		"nothing":  {map[string]string{"Dockerfile@": "gone"}, "no Dockerfile"},
		"itself":   {map[string]string{"Dockerfile@": "Dockerfile"}, ""},
	} {
		res := w.push(t.Context(), nil, pack(t, c.files))
		text := ""
		if res.StatusCode == 200 {
			out := w.read(res)
			text = out.text
			if !out.failed {
				t.Errorf("%s: the build succeeded:\n%s", name, text)
			}
		} else {
			text = string(must(io.ReadAll(res.Body))(t))
			_ = res.Body.Close()
		}
		if !strings.Contains(text, c.want) || strings.Contains(text, "root:") {
			t.Errorf("%s: %s", name, text)
		}
	}
}

func TestSecretsThatADockerfileAsksFor(t *testing.T) {
	for _, tt := range []struct{ dockerfile, want string }{
		{"RUN --mount=type=secret,id=a cat", "a"},
		{"RUN --network=none \\\n  --mount=id=a,type=secret,required \\\n  --mount=type=secret,source=b x", "a b"},
		{"RUN --mount=type=secret,target=/run/x/a --mount=type=cache,id=b,target=/c x", "a"},
		{"ONBUILD RUN --mount=type=secret,id=b,env=B x", "b"},
		{"ARG N\nRUN --mount=type=secret,id=$N x", "a b"},
		{"RUN echo type=secret,id=a\nRUN --mount=type=ssh,id=b x", ""},
		{"", ""},
	} {
		if got := strings.Join(builder.SecretsAskedFor(tt.dockerfile, "a", "b"), " "); got != tt.want {
			t.Errorf("%q asks for %q, want %q", tt.dockerfile, got, tt.want)
		}
	}
}
