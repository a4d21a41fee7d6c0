package worker_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"

	"github.com/roadstead-io/roadstead/internal/builder/worker"
)

// knock is a script that tries a port of many addresses, and says which it reached.
func knock(port int, addresses ...string) string {
	var b strings.Builder
	for _, a := range addresses {
		fmt.Fprintf(&b, "nc -w 2 %s %d </dev/null >/dev/null 2>&1 && echo reached %s; ", a, port, a)
	}
	return b.String() + "echo tried"
}

// ownAddresses are all addresses of this machine.
func ownAddresses(t *testing.T) (list []string) {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			list = append(list, p.Addr().String())
		}
	}
	return list
}

// The attack: a step, or what a Dockerfile has BuildKit itself fetch, talks to this machine, to its neighbours, to the server's
// roles on loopback addresses.
func TestBuildsReachNothingPrivate(t *testing.T) {
	cfg := config(t)
	lan(t)
	start(t, cfg)
	c := connect(t, cfg, "org-1")
	port, reached := listen(t, "[::]:0")
	own := ownAddresses(t)
	if !slices.Contains(own, lanMachine) || !slices.Contains(own, lanMachine6) {
		t.Fatalf("the addresses of this machine: %v", own)
	}
	for _, a := range []string{"127.0.0.1", lanMachine, lanMachine6} {
		conn, err := net.Dial("tcp", net.JoinHostPort(a, fmt.Sprint(port)))
		if err != nil {
			t.Fatalf("this machine itself does not reach %s: %v", a, err)
		}
		_ = conn.Close()
		<-reached
	}
	// What slirp4netns stands for this machine with: its gateway, its name server, everybody.
	targets := append(own, "10.0.2.2", "10.0.2.3", "10.0.2.1", "10.0.2.100", "0.0.0.0", "255.255.255.255", "169.254.169.254")
	out, err := step(t, c, knock(port, targets...)+"; "+knock(80, lanNeighbour))
	if err != nil || strings.Contains(out, "reached") || strings.Count(out, "tried") != 2 {
		t.Errorf("a step: %v:\n%s", err, out)
	}
	// A step is root in its network namespace, and yet cannot give itself another way out.
	out, err = step(t, c, "ip route replace "+lanNetwork+" via 10.0.2.1; ip addr add 10.0.2.2/24 dev eth0; ip rule add pref 1 lookup main; "+knock(80, lanNeighbour))
	if err != nil || strings.Contains(out, "reached") {
		t.Errorf("a step that changes its routes: %v:\n%s", err, out)
	}
	for _, host := range []string{"127.0.0.1", lanMachine, "10.0.2.2", "10.0.2.3", "localhost"} {
		at := fmt.Sprintf("%s:%d", host, port)
		if _, err := solve(t.Context(), t, c, llb.HTTP("http://"+at+"/x")); err == nil {
			t.Errorf("ADD http://%s/x did not fail", at)
		}
		if _, err := solve(t.Context(), t, c, llb.Image(at+"/x:latest")); err == nil {
			t.Errorf("FROM %s/x did not fail", at)
		}
		if _, err := solve(t.Context(), t, c, llb.Git("http://"+at+"/x.git", "")); err == nil {
			t.Errorf("ADD http://%s/x.git did not fail", at)
		}
	}
	if _, err := solve(t.Context(), t, c, llb.HTTP("http://"+lanNeighbour+"/")); err == nil {
		t.Error("ADD of a neighbour's page did not fail")
	}
	if n := len(reached); n > 0 {
		t.Errorf("this machine was reached %d times", n)
	}
}

// Without this the test above would pass on a machine whose builds have no network at all.
func TestTheOperatorAllowsPrivateNetworks(t *testing.T) {
	cfg := config(t)
	lan(t)
	cfg.Allow = []string{lanNetwork}
	start(t, cfg)
	c := connect(t, cfg, "org-1")
	out, err := step(t, c, knock(80, lanNeighbour))
	if err != nil || !strings.Contains(out, "reached "+lanNeighbour) {
		t.Errorf("a step does not reach a network that is allowed: %v:\n%s", err, out)
	}
	if _, err := solve(t.Context(), t, c, llb.HTTP("http://"+lanNeighbour+"/")); err != nil {
		t.Errorf("ADD from a network that is allowed: %v", err)
	}
	port, reached := listen(t, "[::]:0")
	out, err = step(t, c, knock(port, ownAddresses(t)...)) // the machine's own address lies in the network
	if err != nil || strings.Contains(out, "reached") || len(reached) > 0 {
		t.Errorf("a step reaches this machine: %v:\n%s", err, out)
	}
}

// The attack: a step talks to another that runs at the same time, of its own organization or another's.
func TestStepsDoNotReachEachOther(t *testing.T) {
	cfg := config(t)
	start(t, cfg)
	one, two := connect(t, cfg, "org-1"), connect(t, cfg, "org-2")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	served := make(chan string, 1)
	go func() {
		out, _ := stepCtx(ctx, t, one, "(while :; do echo secret | nc -l -p 4711; done) & sleep 1; for i in 1 2 3 4; do nc -w 1 127.0.0.1 4711; for n in 110 111 112 113 114 115; do nc -w 1 10.0.2.$n 4711; done; done; sleep 20")
		served <- out
	}()
	var near []string
	for n := range 6 {
		near = append(near, fmt.Sprintf("10.0.2.%d", 110+n))
	}
	near = append(near, "127.0.0.1", "10.0.2.100")
	for name, c := range map[string]*client.Client{"the same organization": one, "another organization": two} {
		out, err := step(t, c, "sleep 3; "+knock(4711, near...))
		if err != nil || strings.Contains(out, "reached") {
			t.Errorf("a step of %s: %v:\n%s", name, err, out)
		}
	}
	cancel()
	if out := <-served; strings.Count(out, "secret") < 2 {
		t.Errorf("the serving step did not even reach itself:\n%s", out)
	}
}

func TestAllowNamesWhatIsWrong(t *testing.T) {
	for _, bad := range []string{"", "x", "10.0.0.0/7", "127.0.0.0/8", "127.0.0.1", "169.254.169.254", "0.0.0.0/0", "10.0.2.3", "224.0.0.1", "fd00::/8",
		"192.168.1.1/24", "10.0.0.0/8; reboot", "240.0.0.0/4"} {
		err := worker.Config{Dir: "/x", Allow: []string{bad}}.Validate()
		if err == nil || !strings.Contains(err.Error(), "allow: ") {
			t.Errorf("allow %q: %v", bad, err)
		}
	}
	for _, good := range []string{"10.0.0.0/8", "192.168.1.0/24", "192.168.1.7", "203.0.113.5"} {
		if err := (worker.Config{Dir: "/x", Allow: []string{good}}).Validate(); err != nil {
			t.Errorf("allow %q: %v", good, err)
		}
	}
}
