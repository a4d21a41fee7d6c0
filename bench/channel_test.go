package bench_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// channelClients is how many devices connect; ROADSTEAD_BENCH_CLIENTS says another number, such as 1000.
func channelClients() int {
	if n, err := strconv.Atoi(os.Getenv("ROADSTEAD_BENCH_CLIENTS")); err == nil && n > 0 {
		return n
	}
	return 100
}

// BenchmarkControlChannel connects real openvpn clients to a whole server, from network namespaces of a hundred each: how many get in per second
// (with the clients' own work on the same machine), how long it takes until the api role knows, what an idle one costs, and how long everybody needs to
// be back after the death of the vpn role and of openvpn.
func BenchmarkControlChannel(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("only root makes network namespaces")
	}
	clients := channelClients()
	probe := listen(b)
	_, port, _ := net.SplitHostPort(probe.Addr().String())
	_ = probe.Close()
	s, _ := start(b, publicDir(b), "--vpn", "on", "--ssh-listen", "off", "--listen", "0.0.0.0:"+port)
	s.address, s.base = "127.0.0.1:"+port, "https://api."+benchDomain+":"+port
	w := s.newWorld(b, clients)
	for range b.N {
		before := channelMemory(b, s.cmd.Process.Pid)
		began := time.Now()
		stop := connectAll(b, s, w)
		waitOnline(b, w, clients)
		took := time.Since(began)
		b.ReportMetric(float64(clients)/took.Seconds(), "clients/s")
		<-time.After(3 * time.Second)
		idle := spent(b, s.cmd.Process.Pid)
		b.ReportMetric((channelMemory(b, s.cmd.Process.Pid)-before)*1024/float64(clients), "KiB/client")
		<-time.After(10 * time.Second)
		b.ReportMetric(100*(spent(b, s.cmd.Process.Pid).cpu-idle.cpu).Seconds()/10, "%-of-a-core-idle")

		for _, victim := range []string{"vpn", "openvpn"} {
			began = time.Now()
			killRole(b, s.cmd.Process.Pid, victim)
			if victim == "openvpn" { // its devices are gone for a moment
				waitBelow(b, w, clients)
			} else {
				<-time.After(500 * time.Millisecond)
			}
			waitOnline(b, w, clients)
			b.ReportMetric(time.Since(began).Seconds(), "s-back-after-"+victim)
		}
		stop()
	}
	b.ReportMetric(0, "ns/op")
}

// perNamespace is how many clients share a namespace, and so an address.
const perNamespace = 100

// connectAll starts a client for each device.
func connectAll(b *testing.B, s *server, w *world) (stop func()) {
	b.Helper()
	dir := b.TempDir()
	_, port, err := net.SplitHostPort(s.address)
	w.must(err)
	var running []*exec.Cmd
	var undo []func()
	var mu sync.Mutex
	var starting sync.WaitGroup
	places := make(chan struct{}, 2*runtime.NumCPU())
	for n, d := range w.devices {
		namespace := fmt.Sprintf("rsb%d-%d", os.Getpid()%10000, n/perNamespace)
		gateway := fmt.Sprintf("10.%d.%d.1", 64+os.Getpid()%64, n/perNamespace)
		if n%perNamespace == 0 {
			undo = append(undo, namespaceAt(b, namespace, gateway))
		}
		auth := filepath.Join(dir, strconv.Itoa(n))
		w.must(os.WriteFile(auth, []byte(string(d.UUID)+"\n"+w.devices[n].APIKey+"\n"), 0o600))
		starting.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			cmd := exec.Command("ip", "netns", "exec", namespace, "openvpn", "--client", "--dev", "null", "--proto", "tcp", "--remote", gateway, port, "--nobind",
				"--ca", filepath.Join(s.dir, "ca.pem"), "--remote-cert-tls", "server", "--auth-user-pass", auth, "--auth-retry", "nointeract",
				"--connect-retry", "1", "4", "--ifconfig-noexec", "--route-noexec", "--verb", "1", "--reneg-sec", "0")
			if err := cmd.Start(); err != nil {
				b.Error(err)
				return
			}
			mu.Lock()
			running = append(running, cmd)
			mu.Unlock()
		})
	}
	starting.Wait()
	stop = sync.OnceFunc(func() {
		for _, cmd := range running {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		for _, f := range undo {
			f()
		}
	})
	b.Cleanup(stop)
	return stop
}

// namespaceAt makes a namespace with a cable to this machine, whose end here has an address.
func namespaceAt(b *testing.B, namespace, gateway string) (undo func()) {
	b.Helper()
	cable := "rb" + strings.TrimPrefix(namespace, "rsb")
	undo = func() {
		_ = exec.Command("ip", "netns", "del", namespace).Run()
		_ = exec.Command("ip", "link", "del", cable).Run()
	}
	for _, line := range []string{
		"netns add " + namespace, "link add " + cable + " type veth peer name eth0 netns " + namespace, "addr add " + gateway + "/30 dev " + cable,
		"link set " + cable + " up", "-n " + namespace + " addr add " + gateway[:len(gateway)-1] + "2/30 dev eth0", "-n " + namespace + " link set eth0 up",
	} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			undo()
			b.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
	return undo
}

// online counts the devices that the api role knows to be connected.
func online(w *world) (int, error) {
	a, err := w.try(api.RoleEdge, ask("GET", "/v7/device/$count?$filter=is_connected_to_vpn%20eq%20true", w.admin.APIKey, nil), 200)
	if err != nil {
		return 0, err
	}
	var count struct{ D int }
	w.into(a, &count)
	return count.D, nil
}

func waitOnline(b *testing.B, w *world, want int) {
	waitFor(b, w, func(n int) bool { return n >= want })
}
func waitBelow(b *testing.B, w *world, of int) { waitFor(b, w, func(n int) bool { return n < of }) }

func waitFor(b *testing.B, w *world, enough func(int) bool) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		n, err := online(w)
		if err != nil {
			b.Errorf("the API fails meanwhile: %v", err)
		} else if enough(n) {
			return
		}
		select {
		case <-ctx.Done():
			b.Fatal(errors.Join(fmt.Errorf("%d are online", n), ctx.Err()))
		case <-tick.C:
		}
	}
}

// channelMemory is what the processes of the control channel hold, in MiB.
func channelMemory(b *testing.B, pid int) float64 {
	b.Helper()
	shares := footprint(b, pid).shares
	return shares["vpn"] + shares["openvpn"]
}

// killRole kills the process of a role, or the openvpn processes themselves.
func killRole(b *testing.B, parent int, name string) {
	b.Helper()
	out, err := exec.Command("pgrep", "-P", strconv.Itoa(parent), "-f", "role "+map[string]string{"vpn": "vpn ", "openvpn": "openvpn "}[name]).Output()
	if err == nil && name == "openvpn" {
		out, err = exec.Command("pgrep", "-P", strings.TrimSpace(string(out))).Output()
	}
	pid, convErr := strconv.Atoi(strings.TrimSpace(string(out)))
	if err = errors.Join(err, convErr); err != nil || pid <= 1 {
		b.Fatalf("no process of %s: %v", name, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		b.Fatal(err)
	}
}
