//go:build linux

package vpn_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test program also plays what runs on devices.
func TestMain(m *testing.M) {
	switch os.Getenv("VPN_TEST_CHILD") {
	case "serve":
		serve(os.Args[1])
	case "attack":
		attack(os.Args[1], os.Args[2], os.Args[3])
	case "sniff":
		sniff()
	default:
		os.Exit(m.Run())
	}
}

// serve is the HTTP server of a device, in its worst moods.
func serve(address string) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Said", r.Header.Get("X-Say"))
		w.WriteHeader(http.StatusAccepted)
		_, _ = fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.RawQuery, body)
	})
	mux.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://127.0.0.1:1/elsewhere", http.StatusFound)
	})
	mux.HandleFunc("/headers", func(w http.ResponseWriter, _ *http.Request) {
		for n := range 1000 {
			w.Header().Set(fmt.Sprintf("X-%d", n), strings.Repeat("h", 1000))
		}
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) {
		for buf := make([]byte, 64<<10); ; {
			if _, err := w.Write(buf); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		for range 1000 {
			_, _ = w.Write([]byte("."))
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	ln, err := net.Listen("tcp", address)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("serving")
	_ = http.Serve(ln, mux) //nolint:gosec // it serves one test
}

// attack is root on a device that sends through its tunnel what it may not: each kind 20 times. own is its address, server the server's end,
// other another device's.
func attack(own, server, other string) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	link, err := net.InterfaceByName("tun9")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	v4 := func(src, dst string, fragment uint16) []byte {
		body := []byte{0x30, 0x39, 0x30, 0x39, 0, 16, 0, 0, 'h', 'o', 's', 't', 'i', 'l', 'e', '!'}
		b := []byte{0x45, 0, 0, byte(20 + len(body)), 0, 1}
		b = binary.BigEndian.AppendUint16(b, fragment)
		b = append(b, 64, 17, 0, 0)
		b = append(append(b, netip.MustParseAddr(src).AsSlice()...), netip.MustParseAddr(dst).AsSlice()...)
		var sum uint32
		for i := 0; i < 20; i += 2 {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
		}
		for sum > 0xffff {
			sum = sum>>16 + sum&0xffff
		}
		binary.BigEndian.PutUint16(b[10:], ^uint16(sum))
		return append(b, body...)
	}
	v6 := append([]byte{0x60, 0, 0, 0, 0, 0, 59, 64}, append(netip.MustParseAddr("fe80::1").AsSlice(), netip.MustParseAddr("ff02::1").AsSlice()...)...)
	for range 20 {
		for _, p := range [][]byte{
			v4(own, other, 0), v4(own, server, 0), v4(own, "8.8.8.8", 0), v4(own, "169.254.169.254", 0), v4(own, "127.0.0.1", 0),
			v4(own, "224.0.0.251", 0), v4(own, other, 0x2000), v4(own, server, 5), v4(other, server, 0), v4("10.11.0.1", other, 0), v6,
			append([]byte{0x55}, v4(own, server, 0)[1:]...), // of no version that there is
		} {
			to := unix.SockaddrLinklayer{Ifindex: link.Index, Protocol: 0x0008}
			if p[0]>>4 == 6 {
				to.Protocol = 0xdd86
			}
			if err := unix.Sendto(fd, p, 0, &to); err != nil {
				fmt.Println(err)
			}
		}
	}
	// And a connection to each port of the server that it might have.
	for _, port := range []string{"22", "53", "80", "443", "1194", "3128"} {
		d := net.Dialer{Timeout: 200 * time.Millisecond}
		if c, err := d.Dial("tcp", net.JoinHostPort(server, port)); err == nil {
			fmt.Println("connected to", c.RemoteAddr())
		}
		if c, err := d.Dial("tcp", net.JoinHostPort(other, port)); err == nil {
			fmt.Println("connected to", c.RemoteAddr())
		}
	}
	fmt.Println("sent")
}

// sniff writes a line for each packet that comes out of the tunnel.
func sniff() {
	link, err := net.InterfaceByName("tun9")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0x0300) // of every protocol
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: link.Index, Protocol: 0x0300})
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("listening")
	for buf := make([]byte, 2048); ; {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			os.Exit(1)
		}
		if at, ok := from.(*unix.SockaddrLinklayer); ok && at.Pkttype != unix.PACKET_OUTGOING {
			fmt.Printf("%x\n", buf[:n])
		}
	}
}
