package terminal

// ConsoleAs makes a console that takes its output for a terminal, or not.
func (t *Terminal) ConsoleAs(tty bool) *Console { return &Console{t: t, w: t.Out, tty: tty} }
