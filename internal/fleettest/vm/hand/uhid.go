//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roadstead-io/roadstead/internal/fleettest/vm/guest"
)

// Events of /dev/uhid (linux/uhid.h): a number of 32 bits, and a packed structure.
const (
	uhidDestroy = 1
	uhidOutput  = 6
	uhidCreate2 = 11
	uhidInput2  = 12

	maxData   = 4096
	uhidEvent = 4 + 128 + 64 + 64 + 2 + 2 + 4*4 + maxData
	busUSB    = 3
)

// plug makes a HID device of which the test does what the hardware would. It is gone when the connection ends.
func plug(conn *net.TCPConn, order *guest.Plug) error {
	fd, err := unix.Open("/dev/uhid", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("/dev/uhid: %w", err)
	}
	dev := os.NewFile(uintptr(fd), "uhid")
	defer dev.Close()
	if _, err := dev.Write(create(order)); err != nil {
		return err
	}
	var all sync.WaitGroup
	defer all.Wait()
	node, err := nodeOf(order.Name)
	if err == nil {
		_, err = fmt.Fprintln(conn, node)
	}
	if err != nil {
		return err
	}
	all.Go(func() {
		// What the kernel has for the device goes to the test, until the device is closed.
		event := make([]byte, uhidEvent)
		for {
			n, err := dev.Read(event)
			if err != nil {
				return
			}
			if n < 4+maxData+2 || binary.NativeEndian.Uint32(event) != uhidOutput {
				continue
			}
			size := int(binary.NativeEndian.Uint16(event[4+maxData:]))
			report := event[4:][:min(size, maxData)]
			if size == order.Report+1 { // the number of a report that has none comes first
				report = report[1:]
			}
			if len(report) == order.Report {
				_, _ = conn.Write(report) // when the test is gone, so is the device
			}
		}
	})
	report := make([]byte, order.Report)
	for {
		if _, err = io.ReadFull(conn, report); err != nil {
			break
		}
		in := binary.NativeEndian.AppendUint32(nil, uhidInput2)
		in = append(binary.NativeEndian.AppendUint16(in, uint16(len(report))), report...)
		if _, err = dev.Write(in); err != nil {
			break
		}
	}
	_, gone := dev.Write(binary.NativeEndian.AppendUint32(nil, uhidDestroy))
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, gone, dev.Close())
}

func create(order *guest.Plug) []byte {
	event := binary.NativeEndian.AppendUint32(nil, uhidCreate2)
	for _, field := range []struct {
		text string
		size int
	}{{order.Name, 128}, {"", 64}, {order.Name, 64}} { // name, where it is plugged in, what is unique
		text := make([]byte, field.size)
		copy(text[:field.size-1], field.text)
		event = append(event, text...)
	}
	event = binary.NativeEndian.AppendUint16(event, uint16(len(order.Descriptor)))
	event = binary.NativeEndian.AppendUint16(event, busUSB)
	for _, n := range []uint32{order.Vendor, order.Product, 0, 0} { // and version, country
		event = binary.NativeEndian.AppendUint32(event, n)
	}
	return append(event, order.Descriptor...)
}

// nodeOf waits until the kernel has made the file of a device, and gives its name.
func nodeOf(unique string) (string, error) {
	for range 500 {
		found, err := filepath.Glob("/sys/class/hidraw/*/device/uevent")
		if err != nil {
			return "", err
		}
		for _, path := range found {
			text, err := os.ReadFile(path)
			node := "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(path)))
			if err != nil || !strings.Contains(string(text), "HID_UNIQ="+unique+"\n") {
				continue // it may have gone meanwhile
			}
			if _, err := os.Stat(node); err == nil {
				return node, nil
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return "", fmt.Errorf("the kernel makes no device of %s", unique)
}
