package vm

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"time"
)

// autopsy says what became of a machine of a test that failed: where its processor and its program are.
func (m *Machine) autopsy() {
	if !m.Runs() {
		return
	}
	if _, err := io.WriteString(m.in, "stacks\n"); err != nil {
		m.t.Logf("ask for the program's stacks: %v", err)
	}
	for _, question := range []string{"info status", "info registers -a"} {
		said, err := m.monitor(question)
		m.t.Logf("QEMU, %s: %s %v", question, said, err)
	}
	select {
	case <-m.ended:
	case <-time.After(15 * time.Second): // for the stacks to arrive
	}
}

// monitor asks QEMU itself.
func (m *Machine) monitor(question string) (string, error) {
	c, err := net.DialTimeout("unix", m.qmp, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return "", err
	}
	in := bufio.NewReader(c)
	answer := ""
	for _, said := range []string{"", `{"execute":"qmp_capabilities"}`, fmt.Sprintf(`{"execute":"human-monitor-command","arguments":{"command-line":%q}}`, question)} {
		if _, err := io.WriteString(c, said); err != nil {
			return "", err
		}
		if answer, err = in.ReadString('\n'); err != nil {
			return answer, err
		}
	}
	return answer, nil
}
