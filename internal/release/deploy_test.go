package release_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/release/releasetest"
)

// pushed is a release on its way, as balena's client makes one: its rows, and where its images are to be pushed.
type pushed struct {
	w       *releasetest.World
	by      access.Caller
	fleet   int64
	release int64
	images  []int64
	repos   []string
}

var pushedDigest = "sha256:" + strings.Repeat("d", 64)

func push(w *releasetest.World, by access.Caller, fleetID int64, services ...string) *pushed {
	p := &pushed{w: w, by: by, fleet: fleetID}
	composition := map[string]any{}
	for _, s := range services {
		composition[s] = map[string]any{"build": map[string]any{"context": "."}}
	}
	p.release = w.Create(by, "release", map[string]any{
		"is_created_by__user": by.User, "belongs_to__application": fleetID, "composition": map[string]any{"services": composition},
		"commit": strings.Repeat("c", 32), "status": "running", "source": "local", "start_timestamp": "2026-11-21T12:00:00.000Z", "is_final": true,
	})
	for _, s := range services {
		p.add(s)
	}
	return p
}

func (p *pushed) add(name string) {
	var service int64
	for _, row := range p.w.Rows(p.by, fmt.Sprintf("service?$select=id&$filter=application eq %d and service_name eq '%s'", p.fleet, name)) {
		service = int64(row["id"].(float64))
	}
	if service == 0 {
		service = p.w.Create(p.by, "service", map[string]any{"application": p.fleet, "service_name": name})
	}
	image := p.w.Create(p.by, "image", map[string]any{"is_a_build_of__service": service, "status": "running", "start_timestamp": "2026-11-21T12:00:00.000Z"})
	part := p.w.Create(p.by, "image__is_part_of__release", map[string]any{"is_part_of__release": p.release, "image": image})
	p.w.Create(p.by, "image_label", map[string]any{"release_image": part, "label_name": "io.example.x", "value": "1"})
	p.w.Create(p.by, "image_environment_variable", map[string]any{"release_image": part, "name": "A", "value": "1"})
	location := p.w.Rows(p.by, fmt.Sprintf("image(%d)?$select=is_stored_at__image_location", image))[0]["is_stored_at__image_location"].(string)
	_, repo, _ := strings.Cut(location, "/")
	p.images, p.repos = append(p.images, image), append(p.repos, repo)
}

// said is what the client says of an image after it pushed it.
func said() map[string]any {
	return map[string]any{
		"end_timestamp": "2026-11-21T12:01:00.000Z", "project_type": "Standard Dockerfile", "build_log": "built\n", "status": "success",
		"push_timestamp": "2026-11-21T12:01:00.000Z", "content_hash": pushedDigest, "dockerfile": "FROM scratch\n", "image_size": "1000",
	}
}

func (p *pushed) described() {
	for _, id := range p.images {
		p.w.Want(p.by, "PATCH", fmt.Sprintf("image(%d)", id), said(), 200, "")
	}
}

var success = map[string]any{"status": "success", "end_timestamp": "2026-11-21T12:02:00.000Z"}

// finalised says that everything is pushed; the answer comes when the test has done what a builder does, and is sent on the channel.
func (p *pushed) finalised() <-chan string {
	answer := make(chan string, 1)
	go func() {
		status, body := p.w.Do(p.by, "PATCH", path(p.release), success)
		answer <- fmt.Sprint(status, " ", body)
	}()
	return answer
}

// chore is what a builder is given to do.
func chore(t *testing.T, w *releasetest.World) api.QuarantineChore {
	t.Helper()
	c, err := w.Releases.NextChore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func promotion(t *testing.T, w *releasetest.World) *api.Promotion {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		if c := chore(t, w); c.Promote != nil {
			return c.Promote
		}
		if time.Now().After(deadline) {
			t.Fatal("there is nothing to promote")
		}
		<-time.After(10 * time.Millisecond)
	}
}

func (p *pushed) grants(t *testing.T, by access.Caller) (names []string) {
	t.Helper()
	var scopes []string
	for _, r := range p.repos {
		scopes = append(scopes, "repository:"+r+":pull,push")
	}
	p.w.Write(func(tx *db.Tx) error {
		list, err := p.w.Releases.PushGrants(t.Context(), tx, by, scopes)
		for _, g := range list {
			if !g.Quarantine || strings.Join(g.Actions, ",") != "pull,push" {
				t.Errorf("the grant %+v is not one for quarantine", g)
			}
			names = append(names, g.Name)
		}
		return err
	})
	return names
}

// ended is how a builder ends a promotion.
func ended(p *api.Promotion, status, text string) api.BuildResult {
	result := api.BuildResult{Status: status, Error: text, Log: "looked\n"}
	for _, i := range p.Images {
		image := api.BuildImageResult{ID: i.ID, Status: api.StatusFailed}
		if status == api.StatusSuccess {
			image = api.BuildImageResult{ID: i.ID, Status: status, Digest: i.Digest, Size: 7, Labels: map[string]string{"io.example.x": "of the image"}}
		}
		result.Images = append(result.Images, image)
	}
	if status == api.StatusSuccess {
		var images []api.BuildImage
		for _, i := range p.Images {
			images = append(images, i.BuildImage)
		}
		var err error
		if result.Statement, err = releasetest.Statement(p.Build, images, result, nil); err != nil {
			panic(err) // the test's own values
		}
	}
	return result
}

func finish(t *testing.T, w *releasetest.World, id int64, result api.BuildResult) {
	t.Helper()
	w.Write(func(tx *db.Tx) error {
		_, err := w.Releases.Finish(t.Context(), tx, id, result)
		return err
	})
}

// The whole way of a release that a client pushes: what devices see of it is what the builder put into the release's repositories.
func TestADeploymentBecomesARelease(t *testing.T) {
	w := releasetest.New(t)
	fleetID := w.Fleet(w.Alice, "harbour", "intel-nuc")
	dev := w.Device(fleetID)
	p := push(w, w.Alice, fleetID, "web", "db")
	if got := p.grants(t, w.Alice); len(got) != 2 {
		t.Fatalf("the maker may push to %v, want %v", got, p.repos)
	}
	unseen := func(when string) {
		t.Helper()
		for _, query := range []string{"image", "release?$expand=release_image($expand=image)", "release_image?$expand=image"} {
			_, body := w.Do(dev, "GET", query, nil)
			for _, r := range p.repos {
				if strings.Contains(body, strings.TrimPrefix(r, "v2/")) {
					t.Errorf("%s: a device reads the name of a place in quarantine in %s: %s", when, query, body)
				}
			}
		}
	}
	unseen("pushed")
	p.described()
	if c := chore(t, w); c.Promote != nil || c.Empty != nil {
		t.Errorf("before it is finalised there is something to do: %+v", c)
	}
	answer := p.finalised()
	job := promotion(t, w)
	if got := p.grants(t, w.Alice); got != nil {
		t.Errorf("after it was finalised the maker may push to %v", got)
	}
	if len(job.Images) != 2 || len(job.Build.Repositories) != 2 || len(job.Build.Quarantine) != 2 {
		t.Fatalf("the job is %+v", job)
	}
	for _, i := range job.Images {
		if i.Digest != pushedDigest || i.Quarantine == i.Repository || strings.Contains(strings.Join(p.repos, " "), i.Repository) ||
			!strings.Contains(strings.Join(p.repos, " "), i.Quarantine) {
			t.Errorf("an image is to go from %s to %s, and was pushed to %v", i.Quarantine, i.Repository, p.repos)
		}
	}
	unseen("being checked")
	if w.Target(fleetID) != 0 {
		t.Error("the release is the fleet's target before it was checked")
	}
	select {
	case got := <-answer:
		t.Errorf("the client is told %q before the release was checked", got)
	default:
	}
	w.Want(w.Alice, "GET", path(p.release)+"?$select=status", nil, 200, "running")
	finish(t, w, p.release, ended(job, api.StatusSuccess, ""))
	if got := <-answer; got != "200 " {
		t.Errorf("the client is told %q", got)
	}
	if w.Target(fleetID) != p.release {
		t.Error("the release is not the fleet's target")
	}
	unseen("released")
	for _, i := range job.Images {
		w.Want(dev, "GET", fmt.Sprintf("image(%d)?$select=is_stored_at__image_location,content_hash,status", i.ID), nil, 200, i.Repository)
	}
	w.Want(w.Alice, "GET", "image_label?$select=value&$filter=label_name eq 'io.example.x'", nil, 200, `[{"value":"1"},{"value":"1"}]`)
	if c := chore(t, w); c.Empty == nil || c.Empty.ID != p.release || len(c.Empty.Quarantine) != 2 {
		t.Fatalf("what was pushed is not to be thrown away: %+v", c)
	}
	w.Write(func(tx *db.Tx) error { return w.Releases.Emptied(t.Context(), tx, p.release) })
	if c := chore(t, w); c.Promote != nil || c.Empty != nil {
		t.Errorf("there is still something to do: %+v", c)
	}
	w.Want(w.Alice, "PATCH", path(p.release), success, 200, "") // said again, because an answer got lost
}

// Everybody but the maker, and the maker at another time, is kept from what is being pushed.
func TestNobodyElsePushes(t *testing.T) {
	w := releasetest.New(t)
	fleetID, other := w.Fleet(w.Alice, "harbour", "intel-nuc"), w.Fleet(w.Alice, "depot", "intel-nuc")
	dev := w.Device(fleetID)
	carol := w.Person("carol")
	w.Join(carol, fleetID, access.Developer) // another member, who may make releases of the same fleet
	p := push(w, w.Alice, fleetID, "web")
	for name, by := range map[string]access.Caller{
		"another tenant": w.Bob, "another member": carol, "a device": dev, "nobody": access.Nobody(),
		"the fleet's key": {Kind: access.FleetKey, Fleet: fleetID}, "a provisioning key": {Kind: access.Provisioning, Fleet: fleetID},
	} {
		if got := p.grants(t, by); got != nil {
			t.Errorf("%s may push to %v", name, got)
		}
	}
	image := fmt.Sprintf("image(%d)", p.images[0])
	// canAccess says the same of them as the registry's tokens.
	ask := map[string]any{"action": "push"}
	w.Want(w.Alice, "POST", image+"/canAccess", ask, 200, fmt.Sprintf(`{"d":[{"id":%d}]}`, p.images[0]))
	for _, by := range []access.Caller{w.Bob, carol, dev} {
		w.Want(by, "POST", image+"/canAccess", ask, 401, "")
	}
	w.Want(carol, "PATCH", image, said(), 403, "whoever made")
	w.Want(carol, "PATCH", path(p.release), success, 403, "whoever made")
	w.Want(carol, "PATCH", path(p.release), map[string]any{"status": "failed"}, 403, "whoever made")
	part := int64(w.Rows(w.Alice, "release_image?$select=id")[0]["id"].(float64))
	w.Want(carol, "POST", "image_label", map[string]any{"release_image": part, "label_name": "a", "value": "b"}, 403, "whoever made")
	w.Want(w.Bob, "POST", "image_environment_variable", map[string]any{"release_image": part, "name": "B", "value": "b"}, 401, "")
	for column, value := range map[string]any{"is_stored_at__image_location": "registry2.roadstead.test/v2/x", "is_quarantined": false} {
		status, body := w.Do(w.Alice, "PATCH", image, map[string]any{column: value})
		if status != 400 && status != 403 {
			t.Errorf("the maker sets %s: %d %s", column, status, body)
		}
	}
	w.Want(w.Alice, "PATCH", image, map[string]any{"content_hash": "sha256:0"}, 400, "content_hash")
	w.Want(w.Alice, "PATCH", image, map[string]any{"status": "cancelled"}, 400, "running, success or failed")
	w.Want(w.Alice, "PATCH", image, map[string]any{"status": "success"}, 400, "content_hash")

	// Images of one fleet, or one release, in another.
	elsewhere := push(w, w.Alice, other, "web")
	w.Want(w.Alice, "POST", "image__is_part_of__release", map[string]any{"image": p.images[0], "is_part_of__release": elsewhere.release}, 400, "image:")
	service := int64(w.Rows(w.Alice, fmt.Sprintf("service?$select=id&$filter=application eq %d", fleetID))[0]["id"].(float64))
	loose := w.Create(w.Alice, "image", map[string]any{"is_a_build_of__service": service})
	w.Want(w.Alice, "POST", "image__is_part_of__release", map[string]any{"image": loose, "is_part_of__release": elsewhere.release}, 400, "image:")
	w.Want(w.Alice, "POST", "image__is_part_of__release", map[string]any{"image": loose, "is_part_of__release": p.release}, 400, "already")
	w.Want(carol, "POST", "image__is_part_of__release", map[string]any{"image": loose, "is_part_of__release": p.release}, 403, "whoever made")
	built := w.Release(w.Alice, "alice/harbour", false, "web")
	w.Want(w.Alice, "POST", "image__is_part_of__release", map[string]any{"image": loose, "is_part_of__release": built}, 403, "whoever made")
	w.Want(w.Alice, "PATCH", image, map[string]any{"is_a_build_of__service": service}, 403, "is_a_build_of__service")
	w.Want(w.Alice, "PATCH", path(p.release), map[string]any{"is_created_by__user": carol.User}, 403, "is_created_by__user")
	w.Want(w.Alice, "POST", "release", map[string]any{
		"belongs_to__application": fleetID, "composition": map[string]any{"services": map[string]any{"a": nil}}, "is_created_by__user": carol.User,
	}, 400, "must be you")

	// Once it has ended, and once it is finalised.
	w.Want(w.Alice, "PATCH", path(elsewhere.release), map[string]any{"status": "failed", "end_timestamp": 1700000000000}, 200, "")
	if got := elsewhere.grants(t, w.Alice); got != nil {
		t.Errorf("after it failed the maker may push to %v", got)
	}
	w.Want(w.Alice, "PATCH", path(elsewhere.release), success, 400, "has ended: failed")
	p.described()
	answer := p.finalised()
	job := promotion(t, w)
	w.Want(w.Alice, "PATCH", image, map[string]any{"content_hash": "sha256:" + strings.Repeat("e", 64)}, 403, "")
	w.Want(w.Alice, "POST", "image_label", map[string]any{"release_image": part, "label_name": "late", "value": "b"}, 403, "whoever made")
	w.Want(w.Alice, "PATCH", path(p.release), map[string]any{"status": "failed"}, 400, "being checked")
	finish(t, w, p.release, ended(job, api.StatusFailed, "service web: the image is for linux/arm64"))
	if got := <-answer; !strings.HasPrefix(got, "400 ") || !strings.Contains(got, "the image is for linux/arm64") {
		t.Errorf("the client is told %q", got)
	}
	if w.Target(fleetID) == p.release {
		t.Error("a release that failed is the fleet's target")
	}
}

// A maker whose right goes between the push and the promotion has no release of it.
func TestARightThatGoesEndsADeployment(t *testing.T) {
	w := releasetest.New(t)
	fleetID := w.Fleet(w.Alice, "harbour", "intel-nuc")
	carol := w.Person("carol")
	w.Join(carol, fleetID, access.Developer)
	early, late := push(w, carol, fleetID, "web"), push(w, carol, fleetID, "web")
	early.described()
	late.described()
	answer := late.finalised()
	job := promotion(t, w) // the builder is at work
	w.Leave(carol, fleetID)
	if got := early.grants(t, carol); got != nil {
		t.Errorf("without the right they may push to %v", got)
	}
	w.Write(func(tx *db.Tx) error {
		b, err := w.Releases.Heartbeat(t.Context(), tx, late.release)
		if err == nil && b.Status != api.StatusCancelled {
			t.Errorf("the builder is told %s", b.Status)
		}
		return err
	})
	finish(t, w, late.release, ended(job, api.StatusSuccess, ""))
	if got := <-answer; !strings.HasPrefix(got, "400 ") {
		t.Errorf("the client is told %q", got)
	}
	if w.Target(fleetID) != 0 {
		t.Error("the release became the fleet's target")
	}
}

// A builder that dies is replaced by another one, which gets the same job; and after a few attempts the release has failed.
func TestAPromotionIsTakenOver(t *testing.T) {
	w := releasetest.New(t)
	fleetID := w.Fleet(w.Alice, "harbour", "intel-nuc")
	p := push(w, w.Alice, fleetID, "web")
	p.described()
	answer := p.finalised()
	first, err := json.Marshal(promotion(t, w))
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if c := chore(t, w); c.Promote != nil {
			t.Fatal("two builders have one job")
		}
		w.Pass(16 * time.Second)
		again, err := json.Marshal(promotion(t, w))
		if err != nil {
			t.Fatal(err)
		}
		if string(again) != string(first) {
			t.Errorf("the job became another one:\n%s\n%s", first, again)
		}
	}
	w.Pass(2 * time.Minute)
	if err := w.Releases.RunOnce(t.Context()); err != nil { // the sweep of silent builds is not for promotions
		t.Fatal(err)
	}
	w.Want(w.Alice, "GET", path(p.release)+"?$select=status", nil, 200, "running")
	if c := chore(t, w); c.Promote != nil {
		t.Errorf("there is a sixth attempt")
	}
	if got := <-answer; !strings.Contains(got, "interrupted 5 times") {
		t.Errorf("the client is told %q", got)
	}
}

// Whoever says twice at once that it is a success has one promotion, and two answers.
func TestTwoFinalisationsAreOne(t *testing.T) {
	w := releasetest.New(t)
	fleetID := w.Fleet(w.Alice, "harbour", "intel-nuc")
	p := push(w, w.Alice, fleetID, "web")
	p.described()
	answers := []<-chan string{p.finalised(), p.finalised(), p.finalised()}
	job := promotion(t, w)
	if c := chore(t, w); c.Promote != nil {
		t.Error("there are two promotions")
	}
	finish(t, w, p.release, ended(job, api.StatusSuccess, ""))
	for _, a := range answers {
		if got := <-a; got != "200 " {
			t.Errorf("a client is told %q", got)
		}
	}
}

// What is begun and left is bounded, and swept.
func TestAbandonedDeploymentsAreSwept(t *testing.T) {
	w := releasetest.New(t)
	fleetID := w.Fleet(w.Alice, "harbour", "intel-nuc")
	var all []*pushed
	for range 16 {
		all = append(all, push(w, w.Alice, fleetID, "web"))
	}
	more := map[string]any{"belongs_to__application": fleetID, "composition": map[string]any{"services": map[string]any{"a": nil}}}
	w.Want(w.Alice, "POST", "release", more, 409, "being pushed already")
	service := int64(w.Rows(w.Alice, "service?$select=id")[0]["id"].(float64))
	loose := w.Create(w.Alice, "image", map[string]any{"is_a_build_of__service": service})
	w.Want(w.Alice, "PATCH", path(all[0].release), map[string]any{"status": "cancelled"}, 200, "")
	w.Want(w.Alice, "POST", "release", more, 201, "")
	w.Pass(7 * time.Hour)
	if err := w.Releases.RunOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Want(w.Alice, "GET", path(all[1].release)+"?$select=status", nil, 200, "interrupted")
	w.Want(w.Alice, "GET", fmt.Sprintf("image(%d)?$select=id", loose), nil, 200, `{"d":[]}`)
	if got := all[1].grants(t, w.Alice); got != nil {
		t.Errorf("the maker may still push to %v", got)
	}
	var names sync.Map
	for range 17 {
		c := chore(t, w)
		if c.Empty == nil {
			t.Fatal("what was pushed is not to be thrown away")
		}
		if _, twice := names.LoadOrStore(c.Empty.ID, true); twice {
			t.Errorf("release %d is emptied twice", c.Empty.ID)
		}
		w.Write(func(tx *db.Tx) error { return w.Releases.Emptied(t.Context(), tx, c.Empty.ID) })
	}
	if c := chore(t, w); c.Empty != nil {
		t.Errorf("there is still something to throw away: %+v", c.Empty)
	}
}

// Bodies that no client sends get a word about the field that is wrong.
func TestWrongDeployments(t *testing.T) {
	w := releasetest.New(t)
	fleetID := w.Fleet(w.Alice, "harbour", "intel-nuc")
	good := func(change map[string]any) map[string]any {
		body := map[string]any{"belongs_to__application": fleetID, "composition": map[string]any{"services": map[string]any{"a": nil}}}
		for k, v := range change {
			body[k] = v
		}
		return body
	}
	many := map[string]any{}
	for i := range 101 {
		many[fmt.Sprint("s", i)] = nil
	}
	for says, change := range map[string]map[string]any{
		"commit":                  {"commit": "../x"},
		"composition":             {"composition": map[string]any{}},
		"1 to 100 services":       {"composition": map[string]any{"services": many}},
		"must be an object":       {"composition": map[string]any{"services": []string{"a"}}},
		"begins as":               {"status": "success"},
		"valid semver":            {"semver": "one"},
		"contract":                {"contract": map[string]any{"x": strings.Repeat("x", 300_000)}},
		"belongs_to__application": {"belongs_to__application": nil},
	} {
		status, body := w.Do(w.Alice, "POST", "release", good(change))
		if status != 400 && status != 401 || !strings.Contains(body, says) && says != "belongs_to__application" && says != "valid semver" {
			t.Errorf("%s: got %d %s", says, status, body)
		}
	}
}
