package record

import (
	"errors"
	"testing"

	"github.com/roadstead-io/roadstead/api"
)

// One person exports once at a time, and only a few people do: who reads slowly holds a place, and no more than one.
func TestExportsAreBounded(t *testing.T) {
	var e exports
	end, err := e.begin(1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.begin(1); !errors.Is(err, api.ErrRateLimited) {
		t.Errorf("the same person twice: %v", err)
	}
	for user := int64(2); user <= exportsAtOnce; user++ {
		if _, err := e.begin(user); err != nil {
			t.Errorf("person %d: %v", user, err)
		}
	}
	if _, err := e.begin(99); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("one too many: %v", err)
	}
	end()
	if _, err := e.begin(99); err != nil {
		t.Errorf("a place that is free again: %v", err)
	}
}
