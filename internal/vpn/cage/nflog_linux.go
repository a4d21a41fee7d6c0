package cage

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// logGroup is the group to which rules.nft logs.
const logGroup = 1

// Of linux/netfilter/nfnetlink_log.h.
const (
	nfnlSubsysULog = 4
	msgConfig      = nfnlSubsysULog<<8 | 1
	msgPacket      = nfnlSubsysULog << 8

	configCommand, commandBind = 1, 1
	configMode, modePacket     = 2, 2
	configThreshold            = 5

	attrPayload = 9
	attrPrefix  = 10
)

// hearRefusals opens the log of the firewall. Only root may; who has the open file may go on reading.
func hearRefusals() (fd int, err error) {
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return -1, err
	}
	mode := append(binary.BigEndian.AppendUint32(nil, 256), modePacket, 0) // so much of each packet
	for _, attr := range [][]byte{
		attribute(configCommand, []byte{commandBind}), attribute(configMode, mode), attribute(configThreshold, binary.BigEndian.AppendUint32(nil, 1)),
	} {
		if err := configure(fd, attr); err != nil {
			return -1, err
		}
	}
	return fd, nil
}

func attribute(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// configure sends one setting and waits for the kernel's answer.
func configure(fd int, attr []byte) error {
	msg := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+4+len(attr)))
	msg = binary.NativeEndian.AppendUint16(msg, msgConfig)
	msg = binary.NativeEndian.AppendUint16(msg, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	msg = append(msg, make([]byte, 8)...) // number and port
	msg = append(msg, unix.AF_UNSPEC, 0)  // of any family
	msg = binary.BigEndian.AppendUint16(msg, logGroup)
	if err := unix.Sendto(fd, append(msg, attr...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return errors.New("the kernel answers with something else")
	}
	if errno := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); errno != 0 {
		return fmt.Errorf("the kernel refuses: %w", unix.Errno(-errno))
	}
	return nil
}

// refusal is a packet that the firewall refused.
type refusal struct {
	way     string // the prefix of the rule
	payload []byte // its beginning
}

// refusals takes one message of the log apart.
func refusals(msg []byte) (list []refusal) {
	for len(msg) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(msg))
		if size < unix.SizeofNlMsghdr || size > len(msg) {
			return list
		}
		if binary.NativeEndian.Uint16(msg[4:]) == msgPacket && size > unix.SizeofNlMsghdr+4 {
			list = append(list, packet(msg[unix.SizeofNlMsghdr+4:size]))
		}
		msg = msg[min(len(msg), (size+3)&^3):]
	}
	return list
}

func packet(attrs []byte) (r refusal) {
	for len(attrs) >= 4 {
		size := int(binary.NativeEndian.Uint16(attrs))
		if size < 4 || size > len(attrs) {
			return r
		}
		switch value := attrs[4:size]; binary.NativeEndian.Uint16(attrs[2:]) & 0x3fff {
		case attrPrefix:
			for len(value) > 0 && value[len(value)-1] == 0 {
				value = value[:len(value)-1]
			}
			r.way = string(value)
		case attrPayload:
			r.payload = append([]byte(nil), value...)
		}
		attrs = attrs[min(len(attrs), (size+3)&^3):]
	}
	return r
}
