package trust

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/channel/when"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// mostRoots is how many roots one answer brings; a device that was off for longer asks again.
const (
	mostRoots = 32
	mostAsked = 8
)

// Reasons of refusals that tuf does not know.
const (
	reasonComposition = "composition"
	reasonVariable    = "variable"
)

// Check says whether a target state may be applied. What is refused is a *tuf.Refused; any other error means that it could not be checked. An
// accepted one is remembered before Check returns.
func (t *Trust) Check(ctx context.Context, target *api.DeviceTarget) error {
	t.checking.Lock()
	defer t.checking.Unlock()
	err := t.check(ctx, target)
	t.note(ctx, target, err)
	return err
}

func (t *Trust) check(ctx context.Context, target *api.DeviceTarget) error {
	st, err := t.current()
	if err != nil {
		return err
	}
	app, other, err := ours(target, st.Fleet)
	if err != nil {
		return err
	}
	if other != "" {
		return t.move(ctx, st, target, other)
	}
	commit, rel := release(app)
	variables := channelVariables(target)
	if now := t.now(st.Floor); st.Accepted != nil && st.Accepted.Commit == commit && st.Said != nil && st.Said.Commit == commit &&
		st.Said.Variables == variables && now.Before(st.Said.until()) {
		return accepts(st.Accepted, rel) // it was checked before; of environment and configuration nothing is signed but what may not be there
	}
	return t.fetch(ctx, st, commit, rel, variables)
}

// Remembered says whether a target state that was stored on the device may be run without asking anybody: it is the one that was accepted, or, after
// a loss of power, the one before.
func (t *Trust) Remembered(target *api.DeviceTarget) error {
	st, err := t.current()
	if err != nil {
		return err
	}
	app, other, err := ours(target, st.Fleet)
	if err != nil {
		return err
	}
	if other != "" {
		return tuf.Refuse("fleet", tuf.ReasonFleet, "", st.Fleet, other)
	}
	commit, rel := release(app)
	for _, was := range []*acceptance{st.Accepted, st.Before} {
		if was != nil && was.Commit == commit {
			return accepts(was, rel)
		}
	}
	return tuf.Refuse("release "+commit, tuf.ReasonMissing, "", "one that was accepted", "one that was not")
}

// backwards is how far a clock may go back and still have been right before.
const backwards = time.Hour

// Renew fetches a new statement of the director when half of the life of the last one is over, or when the clock does not tell. It is cheap until then.
func (t *Trust) Renew(ctx context.Context, target *api.DeviceTarget) error {
	t.checking.Lock()
	defer t.checking.Unlock()
	st, err := t.current()
	if err != nil {
		return err
	}
	if st.Said == nil || st.Accepted == nil || target == nil { // nothing was accepted: there is nothing to renew
		return nil
	}
	now := t.now(st.Floor)
	lost := !t.asked && t.cfg.Now().Before(st.Floor)  // nobody knows how long the device was off
	back := st.Said.Fetched.After(now.Add(backwards)) // it was said while the clock was ahead
	if now.Before(st.Said.half()) && !lost && !back {
		return nil
	}
	app, other, err := ours(target, st.Fleet)
	if err != nil || other != "" {
		return err
	}
	commit, rel := release(app)
	if commit != st.Accepted.Commit {
		return nil
	}
	err = t.fetch(ctx, st, commit, rel, channelVariables(target))
	t.note(ctx, target, err)
	return err
}

// ours finds the part of a target state that is about the fleet which this device believes. Another fleet's release is refused, but where it is the only
// one: then its uuid is answered. A second other one would be run without having been checked.
func ours(target *api.DeviceTarget, fleet string) (app *api.AppTarget, other string, err error) {
	for _, uuid := range slices.Sorted(maps.Keys(target.Apps)) {
		a := target.Apps[uuid]
		switch {
		case a == nil || a.IsHost || a.Class == "app": // nothing of ours, and nothing is run
		case uuid == fleet:
			app = a
		case other != "":
			return nil, "", tuf.Refuse("fleet", tuf.ReasonFleet, "", fleet+", or one other", other+", "+uuid)
		default:
			other = uuid
		}
	}
	if app != nil && other != "" {
		return nil, "", tuf.Refuse("fleet", tuf.ReasonFleet, "", fleet, other)
	}
	return app, other, nil
}

// release is the one that an app is to run, as the agent takes it: the first in order.
func release(app *api.AppTarget) (commit string, rel *api.ReleaseTarget) {
	if app == nil {
		return "", nil
	}
	for _, commit := range slices.Sorted(maps.Keys(app.Releases)) {
		if rel := app.Releases[commit]; rel != nil {
			return commit, rel
		}
	}
	return "", nil
}

// accepts compares a release with what was accepted.
func accepts(was *acceptance, rel *api.ReleaseTarget) error {
	if was.Commit == "" {
		return nil // and the release is none
	}
	doc, err := readDocument(was.Document)
	if err != nil {
		return err
	}
	if err := compare(doc, rel); err != nil {
		return err
	}
	return compareVariables(doc, rel, was.Approval)
}

func readDocument(text []byte) (*api.ReleaseDocument, error) {
	doc := &api.ReleaseDocument{}
	if err := json.Unmarshal(text, doc); err != nil {
		return nil, tuf.Refuse("document", tuf.ReasonMalformed, "", "JSON", err.Error())
	}
	return doc, nil
}

// channelVariables is the digest of what the variables say about the channel.
func channelVariables(target *api.DeviceTarget) string {
	var all bytes.Buffer
	for _, name := range append(when.Names(), when.Default) {
		fmt.Fprintf(&all, "%s=%q\n", name, target.Config[name])
	}
	return digestOf(all.Bytes())
}

// inquiry is one exchange with the server: what was believed before, what the answer makes of it, and what else was answered.
type inquiry struct {
	st      *state
	o       *opened
	answer  api.TrustBundle
	nonce   string
	said    *statement
	persist bool // progress is stored as it is made
	rooted  bool // a newer root was stored
}

// fetch asks the server for what is missing, checks all of it in the order of DESIGN.md, and remembers it.
func (t *Trust) fetch(ctx context.Context, st *state, commit string, rel *api.ReleaseTarget, variables string) error {
	q := &inquiry{st: st, persist: true}
	if err := t.gather(ctx, q, commit); err != nil {
		if q.rooted {
			t.end()
		}
		return err
	}
	next, err := t.examine(q, commit, rel)
	if q.said != nil {
		q.said.Variables = variables
	}
	if err != nil {
		t.keep(q)
		return err
	}
	t.asked = true
	return t.change(func(s *state) error {
		next.Nonces = s.Nonces
		next.prune()
		*s = *next
		return nil
	})
}

// gather asks until nothing is missing, and verifies root, timestamp, snapshot, targets, delegations and bins.
func (t *Trust) gather(ctx context.Context, q *inquiry, commit string) (err error) {
	if q.o, err = open(q.st); err != nil {
		return err
	}
	for range mostAsked {
		q.o.SetNow(t.now(q.st.Floor))
		q.nonce = rand.Text()
		if q.answer, err = t.cfg.Bundle(ctx, have(q, commit)); err != nil {
			return err
		}
		if q.answer.Fleet != q.o.Fleet() {
			return tuf.Refuse("bundle", tuf.ReasonFleet, "", q.o.Fleet(), q.answer.Fleet)
		}
		if err := t.roots(q); err != nil {
			return err
		}
		if len(q.answer.Roots) > 0 {
			continue // another root may have made files void that the server thinks are here
		}
		for _, f := range q.answer.Files {
			if f.Role == api.TrustRoot || f.Role == api.TrustDirector {
				return tuf.Refuse("bundle", tuf.ReasonName, "", "files of the fleet", f.Role)
			}
			if err := q.o.Take(f); err != nil {
				return err
			}
		}
		if err := plausible(q.o); err != nil {
			return err
		}
		q.o.policy, err = q.o.Policy()
		return err
	}
	return tuf.Refuse("root", tuf.ReasonSize, "", fmt.Sprintf("at most %d new versions", mostRoots*mostAsked), "more")
}

func have(q *inquiry, commit string) api.TrustHave {
	have := api.TrustHave{Nonce: q.nonce, Fleet: q.o.Fleet(), Commit: commit, Versions: q.o.Versions(), Root: q.o.RootDigest()}
	if q.st.Log != nil {
		have.Log = q.st.Log.Size
	}
	if was := q.st.Accepted; was != nil && len(was.Document) > 0 {
		have.Counter = was.Counter
	}
	return have
}

// roots follows the root, and remembers how far it came whatever becomes of the rest: the way back is shut.
func (t *Trust) roots(q *inquiry) error {
	if len(q.answer.Roots) > mostRoots {
		return tuf.Refuse("bundle", tuf.ReasonSize, "", fmt.Sprintf("at most %d roots", mostRoots), fmt.Sprint(len(q.answer.Roots)))
	}
	var failed error
	for _, root := range q.answer.Roots {
		if failed = q.o.Root(root); failed != nil {
			break
		}
	}
	if version := q.o.Versions()[api.TrustRoot]; version != q.o.root {
		// Who held the keys of before may have said that it is the year 2100. The owner's new root ends that.
		files := without(q.o.Files(), api.TrustDirector)
		forward := func(s *state) error {
			s.Files = files
			o, err := open(s)
			if err == nil {
				s.Floor = o.Floor()
			}
			return err
		}
		next := *q.st
		if err := forward(&next); err != nil {
			return err
		}
		q.st = &next
		if q.persist {
			if err := t.change(forward); err != nil {
				return err
			}
			t.log.Info("the root of trust is a newer one", "version", version)
			q.rooted = true
		}
	}
	if failed != nil || len(q.answer.Roots) == 0 {
		return failed
	}
	o, err := open(q.st)
	if err != nil {
		return err
	}
	o.SetNow(t.now(q.st.Floor))
	q.o = o
	return nil
}

func without(files []api.TrustFile, role string) []api.TrustFile {
	return slices.DeleteFunc(files, func(f api.TrustFile) bool { return f.Role == role })
}

// plausible refuses files that say it is later than the root lives: the device would believe nothing else for that long.
func plausible(o *opened) error {
	for _, f := range o.Files() {
		if f.Role != api.TrustRoot {
			continue
		}
		root, err := tuf.ReadRoot(f.Data)
		if err != nil {
			return err
		}
		if o.Floor().After(root.Expires) {
			return tuf.Refuse("signed_at", tuf.ReasonClock, "", "before the root expires, "+root.Expires.Format(time.RFC3339), o.Floor().Format(time.RFC3339))
		}
	}
	return nil
}

// examine checks what was said to this device and the release itself. It answers what is to be believed then.
func (t *Trust) examine(q *inquiry, commit string, rel *api.ReleaseTarget) (*state, error) {
	st, o := q.st, q.o
	said, err := o.Director(q.answer.Director, t.cfg.UUID, q.nonce)
	if err == nil {
		err = plausible(o)
	}
	if err != nil {
		return nil, err
	}
	q.said = &statement{Commit: said.Commit, Channel: said.Mark.Channel, Fetched: o.Now(), Expires: said.Expires}
	if said.Commit != commit {
		return nil, tuf.Refuse("release of the director's statement", reasonDirector, "", orNone(said.Commit), orNone(commit)+" in the target state")
	}
	next := *st
	accepted := &acceptance{Approval: o.policy.Approval}
	if st.Accepted != nil {
		accepted.Counter, accepted.SHA256 = st.Accepted.Counter, st.Accepted.SHA256
	}
	if commit != "" {
		if accepted, err = t.release(q, said, commit); err != nil {
			return nil, err
		}
		if err := accepts(accepted, rel); err != nil {
			return nil, err
		}
		if next.Log, err = logged(q, accepted); err != nil {
			return nil, err
		}
	}
	if st.Accepted == nil || accepted.Commit != st.Accepted.Commit || accepted.SHA256 != st.Accepted.SHA256 {
		next.Before = st.Accepted
	}
	o.Trim(commit)
	next.Accepted, next.Said, next.Files, next.Floor = accepted, q.said, o.Files(), latest(st.Floor, o.Floor())
	return &next, nil
}

const reasonDirector = "director"

// counterAhead is how far a counter may be ahead of the time: a day more than whoever gives them goes. One that is far ahead would leave no room for those that are to
// come.
const counterAhead = 8 * 24 * time.Hour

// release checks that the release is listed as the approval asks for, that it is the one that the director names, that it is not older than what was accepted,
// and that the document is it.
func (t *Trust) release(q *inquiry, said tuf.Director, commit string) (*acceptance, error) {
	st, o := q.st, q.o
	what := "release " + commit
	listed, err := o.Release(commit)
	if err != nil {
		return nil, err
	}
	if said.Release == nil || *said.Release != listed {
		return nil, tuf.Refuse(what+" in the director's statement", reasonDirector, "", describe(&listed), describe(said.Release))
	}
	counter, sum := t.least(st)
	most := o.Now().Add(counterAhead).Unix()
	if counter > most { // nobody could have given it one; a thief made the device believe in another year, which a new root has ended since
		t.log.Warn("the counter of the release that was accepted last is ahead of the time, and does not count", "counter", counter, "at_most", most)
		counter, sum = 0, ""
	}
	switch {
	case listed.Counter > most:
		return nil, tuf.Refuse("counter of "+what, tuf.ReasonCounter, "", fmt.Sprintf("at most %d, by the time", most), fmt.Sprint(listed.Counter))
	case listed.Counter < counter:
		return nil, tuf.Refuse("counter of "+what, tuf.ReasonRollback, "", fmt.Sprint("at least ", counter), fmt.Sprint(listed.Counter))
	case listed.Counter == counter && sum != "" && listed.SHA256 != sum:
		return nil, tuf.Refuse("counter of "+what, tuf.ReasonCounter, "", fmt.Sprintf("%d for another document than %s", counter, sum), listed.SHA256)
	}
	document := q.answer.Document
	if len(document) == 0 && st.Accepted != nil && st.Accepted.SHA256 == listed.SHA256 {
		document = st.Accepted.Document
	}
	switch {
	case len(document) == 0:
		return nil, tuf.Refuse("document of "+what, tuf.ReasonMissing, "", listed.SHA256, "nothing")
	case int64(len(document)) != listed.Length:
		return nil, tuf.Refuse("document of "+what, tuf.ReasonSize, "", fmt.Sprintf("%d bytes", listed.Length), fmt.Sprint(len(document)))
	case digestOf(document) != listed.SHA256:
		return nil, tuf.Refuse("document of "+what, tuf.ReasonDigest, "", listed.SHA256, digestOf(document))
	}
	doc, err := readDocument(document)
	switch {
	case err != nil:
		return nil, err
	case doc.Fleet != o.Fleet():
		return nil, tuf.Refuse("document of "+what, tuf.ReasonFleet, "", o.Fleet(), doc.Fleet)
	case doc.Commit != commit:
		return nil, tuf.Refuse("document of "+what, tuf.ReasonDigest, "", commit, doc.Commit)
	}
	return &acceptance{Commit: commit, Counter: listed.Counter, SHA256: listed.SHA256, Document: document, Approval: o.policy.Approval}, nil
}

// least is the counter below which nothing is accepted, and the document that has it already.
func (t *Trust) least(st *state) (counter int64, sum string) {
	if st.Accepted != nil {
		counter, sum = st.Accepted.Counter, st.Accepted.SHA256
	}
	t.writing.Lock()
	defer t.writing.Unlock()
	if t.mark != nil && t.mark.Fleet == st.Fleet && t.mark.Counter > counter {
		counter, sum = t.mark.Counter, t.mark.SHA256
	}
	return counter, sum
}

// keep remembers what verified although the release was refused: nothing older is taken any more, and what the director wants of the channel counts.
func (t *Trust) keep(q *inquiry) {
	before, err := open(q.st)
	if err != nil {
		return
	}
	old, said := q.st.Said, q.said
	fresh := said != nil && (old == nil || old.Variables != said.Variables || old.Commit != said.Commit || old.half().Before(said.Fetched))
	ended := said == nil && q.rooted
	if maps.Equal(before.Versions(), q.o.Versions()) && !fresh && !ended {
		return
	}
	files := q.o.Files()
	if said == nil { // the statement was refused, so the one of before stays, as long as its director is one
		files = without(files, api.TrustDirector)
		if i := slices.IndexFunc(q.st.Files, func(f api.TrustFile) bool { return f.Role == api.TrustDirector }); i >= 0 {
			both := append(slices.Clone(files), q.st.Files[i])
			if _, err := tuf.Reopen(q.st.Fleet, both); err == nil {
				files = both
			} else {
				ended = true
			}
		}
	}
	if err := t.change(func(s *state) error {
		s.Files = files
		o, err := open(s)
		if err != nil {
			return err
		}
		s.Floor = latest(s.Floor, o.Floor())
		switch {
		case said != nil:
			s.Said = said
		case ended:
			s.Said = s.Said.ended()
		}
		return nil
	}); err != nil {
		t.log.Warn("metadata that verified cannot be stored", "error", err)
	}
}

// end makes the statement of before void: under a new root it is not known to be anybody's word, and a new one did not come.
func (t *Trust) end() {
	if err := t.change(func(s *state) error {
		s.Said = s.Said.ended()
		return nil
	}); err != nil {
		t.log.Warn("that the director is to be asked anew cannot be stored", "error", err)
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

func describe(l *tuf.Listed) string {
	if l == nil {
		return "none"
	}
	return fmt.Sprintf("counter %d, %d bytes, sha256 %s", l.Counter, l.Length, l.SHA256)
}
