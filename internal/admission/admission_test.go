package admission_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/admission"
)

func limit(running, waiting int) admission.Limit {
	return admission.Limit{Running: running, Waiting: waiting, Wait: 5 * time.Second, Again: [2]time.Duration{2 * time.Second, 9 * time.Second}}
}

func TestGateLetsInInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := admission.NewGate("requests", limit(1, 3))
		leave, err := g.Enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var order []int
		var all sync.WaitGroup
		for i := range 3 {
			all.Go(func() {
				leave, err := g.Enter(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				leave()
			})
			synctest.Wait() // i waits now
		}
		if _, err := g.Enter(t.Context()); !errors.Is(err, api.ErrUnavailable) {
			t.Errorf("beyond the queue: %v, want unavailable", err)
		}
		if got := g.Load(); got != (admission.Load{Running: 1, Waiting: 3, Refused: 1}) {
			t.Errorf("load %+v", got)
		}
		leave()
		all.Wait()
		if !slices.Equal(order, []int{0, 1, 2}) {
			t.Errorf("order %v", order)
		}
		if got := g.Load(); got.Running != 0 || got.Waiting != 0 {
			t.Errorf("afterwards: %+v", got)
		}
	})
}

func TestGateTurnsAwayWhoWaitsTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := admission.NewGate("polls", limit(1, 10))
		leave, err := g.Enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() { _, err := g.Enter(ctx); gone <- err }()
		synctest.Wait()
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("who went away: %v", err)
		}
		seen := map[int64]bool{}
		for range 50 {
			began := time.Now()
			_, err := g.Enter(t.Context())
			var busy *admission.BusyError
			if !errors.As(err, &busy) || api.AsError(err).Text == "" {
				t.Fatalf("got %v", err)
			}
			if d := time.Since(began); d != 5*time.Second {
				t.Fatalf("it waited %s", d)
			}
			if s := busy.Seconds(); s < 2 || s > 9 {
				t.Fatalf("come again after %d s", s)
			}
			seen[busy.Seconds()] = true
		}
		if len(seen) < 4 {
			t.Errorf("all are told to come back at the same times: %v", seen)
		}
		leave()
		if leave, err = g.Enter(t.Context()); err != nil {
			t.Fatalf("a free gate: %v", err)
		}
		leave()
	})
}

// TestGateUnderLoad counts who is inside at once, while some give up.
func TestGateUnderLoad(t *testing.T) {
	g := admission.NewGate("requests", admission.Limit{Running: 7, Waiting: 1000, Wait: time.Minute})
	var inside, most, in atomic.Int64
	var all sync.WaitGroup
	for i := range 500 {
		all.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if i%3 == 0 {
				time.AfterFunc(time.Duration(i)*time.Microsecond, cancel)
			}
			leave, err := g.Enter(ctx)
			if err != nil {
				return
			}
			in.Add(1)
			n := inside.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			inside.Add(-1)
			leave()
		})
	}
	all.Wait()
	if most.Load() > 7 || in.Load() < 333 {
		t.Errorf("at most %d at once, %d in all", most.Load(), in.Load())
	}
	if got := g.Load(); got.Running != 0 || got.Waiting != 0 {
		t.Errorf("afterwards: %+v", got)
	}
}

func TestSharesKeepCallersApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := admission.NewShares[string](limit(2, 1))
		var leaves []func()
		for range 2 {
			leave, ok := s.TryEnter("grace")
			if !ok {
				t.Fatal("grace is refused her share")
			}
			leaves = append(leaves, leave)
		}
		if _, ok := s.TryEnter("grace"); ok {
			t.Error("grace has three at once")
		}
		other, ok := s.TryEnter("alan")
		if !ok {
			t.Error("alan suffers for grace")
		}
		waited := make(chan error, 1)
		go func() {
			leave, err := s.Enter(t.Context(), "grace")
			if err == nil {
				leave()
			}
			waited <- err
		}()
		synctest.Wait()
		if _, err := s.Enter(t.Context(), "grace"); !errors.Is(err, api.ErrRateLimited) {
			t.Errorf("grace beyond her queue: %v, want rate limited", err)
		}
		leaves[0]()
		if err := <-waited; err != nil {
			t.Errorf("grace waited: %v", err)
		}
		leaves[1]()
		other()
		if n := s.Callers(); n != 0 {
			t.Errorf("%d callers are remembered after they left", n)
		}
	})
}

// slowKey says when it is asked to sign, and signs when it is told to.
type slowKey struct {
	crypto.Signer
	inside, most *atomic.Int64
	signing      chan struct{} // told at every signature
	proceed      chan struct{} // waited for in every signature
}

func (k slowKey) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	n := k.inside.Add(1)
	defer k.inside.Add(-1)
	for m := k.most.Load(); n > m && !k.most.CompareAndSwap(m, n); m = k.most.Load() {
	}
	k.signing <- struct{}{}
	<-k.proceed
	return k.Signer.Sign(r, digest, opts)
}

func certificate(t *testing.T) (tls.Certificate, slowKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"a.example.com"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	slow := slowKey{Signer: key, inside: new(atomic.Int64), most: new(atomic.Int64),
		signing: make(chan struct{}, 100), proceed: make(chan struct{}, 100)}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: slow}, slow
}

// Handshakes are computed two at a time, and silent clients keep nobody out.
func TestHandshakesAreBounded(t *testing.T) {
	cert, key := certificate(t)
	h := admission.NewHandshakes(2, 30*time.Second)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := tls.NewListener(h.Listener(tcp), h.Config(&tls.Config{Certificates: []tls.Certificate{cert}}))
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer func() { _ = conn.Close() }()
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	defer serving.Wait()
	defer func() { _ = ln.Close() }()

	// Silent clients hold nothing.
	for range 3 {
		conn, err := net.Dial("tcp", tcp.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
	}
	const clients = 8
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			conn, err := tls.Dial("tcp", tcp.Addr().String(), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a test's own server
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = conn.Close() }()
			if _, err := conn.Write([]byte("hello")); err != nil {
				t.Error(err)
			}
			if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
				t.Error(err)
			}
		})
	}
	for range 2 {
		<-key.signing
	}
	for range clients {
		key.proceed <- struct{}{}
	}
	all.Wait()
	if most := key.most.Load(); most != 2 {
		t.Errorf("%d handshakes at once, want 2", most)
	}
}

// Who comes last gets the next place, and those that give up take none.
func TestHandshakesServeTheLastFirst(t *testing.T) {
	cert, key := certificate(t)
	h := admission.NewHandshakes(1, 30*time.Second)
	var served []string // appended by who is inside, which is one at a time
	conf := h.Config(&tls.Config{Certificates: []tls.Certificate{cert}, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		served = append(served, hello.ServerName)
		return nil, nil
	}})
	var all sync.WaitGroup
	greet := func(n int, patience time.Duration) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		client, server := net.Pipe()
		all.Go(func() {
			defer cancel()
			defer func() { _ = client.Close() }()
			name := fmt.Sprintf("n%d.example.com", n)
			_ = tls.Client(client, &tls.Config{InsecureSkipVerify: true, ServerName: name}).HandshakeContext(ctx) //nolint:gosec // a test's own server
		})
		all.Go(func() {
			defer func() { _ = server.Close() }()
			_ = tls.Server(admission.Shaking(h, server), conf).HandshakeContext(ctx)
		})
	}
	greet(0, time.Minute)
	<-key.signing // it is inside
	for n := 1; n <= 3; n++ {
		patience := time.Minute
		if n == 2 {
			patience = 50 * time.Millisecond
		}
		greet(n, patience)
		for admission.Queued(h) < n {
			runtime.Gosched()
		}
	}
	for admission.GaveUp(h) == 0 {
		runtime.Gosched()
	}
	for range 3 {
		key.proceed <- struct{}{}
	}
	all.Wait()
	if !slices.Equal(served, []string{"n0.example.com", "n3.example.com", "n1.example.com"}) {
		t.Errorf("served %v, want 0, 3, 1", served)
	}
}
