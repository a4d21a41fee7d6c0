package cage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// mark begins what the watcher's datagrams carry; a number follows. In a request for a connection the number is that of its first byte.
var mark = []byte("roadstead watches")

// watchPort is the port to which the watcher sends, and from which it asks for connections.
const watchPort = 51820

// datagram is one of UDP without a checksum, which it need not have.
func datagram(id uint32) []byte {
	body := binary.BigEndian.AppendUint32(bytes.Clone(mark), id)
	b := binary.BigEndian.AppendUint16(nil, watchPort)
	b = binary.BigEndian.AppendUint16(b, watchPort)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(body)))
	return append(append(b, 0, 0), body...)
}

// syn asks for a connection.
func syn(src, dst netip.Addr, id uint32) []byte {
	b := binary.BigEndian.AppendUint16(nil, watchPort)
	b = binary.BigEndian.AppendUint16(b, 22)
	b = binary.BigEndian.AppendUint32(b, id)
	b = append(b, 0, 0, 0, 0, 5<<4, 2, 0xff, 0xff, 0, 0, 0, 0)
	pseudo := append(append([]byte{}, src.AsSlice()...), dst.AsSlice()...)
	pseudo = append(pseudo, 0, unix.IPPROTO_TCP, 0, byte(len(b)))
	binary.BigEndian.PutUint16(b[16:], checksum(append(pseudo, b...)))
	return b
}

// ipv4 is a packet. fragment is the field of flags and offset.
func ipv4(src, dst netip.Addr, protocol byte, fragment uint16, body []byte) []byte {
	b := []byte{4<<4 | 5, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(20+len(body)))
	b = append(b, 0x52, 0x53)
	b = binary.BigEndian.AppendUint16(b, fragment)
	b = append(b, 64, protocol, 0, 0)
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, body...)
}

// ipv6 is a packet to every neighbour.
func ipv6(body []byte) []byte {
	b := []byte{6 << 4, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	b = append(b, unix.IPPROTO_UDP, 64)
	b = append(b, netip.MustParseAddr("fe80::9").AsSlice()...)
	b = append(b, netip.MustParseAddr("ff02::1").AsSlice()...)
	return append(b, body...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// number finds a packet of the watcher's again: one that it sent, or an answer to its request for a connection.
func number(packet []byte) (id uint32, ok bool) {
	if i := bytes.Index(packet, mark); i >= 0 && len(packet) >= i+len(mark)+4 {
		return binary.BigEndian.Uint32(packet[i+len(mark):]), true
	}
	if len(packet) < 40 || packet[0] != 4<<4|5 || packet[9] != unix.IPPROTO_TCP {
		return 0, false
	}
	tcp := packet[20:]
	switch uint16(watchPort) {
	case binary.BigEndian.Uint16(tcp):
		return binary.BigEndian.Uint32(tcp[4:]), true
	case binary.BigEndian.Uint16(tcp[2:]):
		return binary.BigEndian.Uint32(tcp[8:]) - 1, true
	}
	return 0, false
}

// describe says for people what a packet is.
func describe(packet []byte) string {
	if len(packet) < 20 || packet[0]>>4 != 4 {
		return "not IPv4"
	}
	src, _ := netip.AddrFromSlice(packet[12:16])
	dst, _ := netip.AddrFromSlice(packet[16:20])
	return fmt.Sprintf("%s to %s, protocol %d", src, dst, packet[9])
}
