package logtext_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/roadstead-io/roadstead/internal/builder/logtext"
)

func TestHarmlessLetsOnlyColoursThrough(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                                  "plain",
		"tab\tand\nline":                         "tab\tand\nline",
		"\x1b[31mred\x1b[0m":                     "\x1b[31mred\x1b[0m",
		"\x1b[31mred":                            "\x1b[31mred\x1b[0m",
		"\x1b[38;2;1;2;3mx\x1b[m":                "\x1b[38;2;1;2;3mx\x1b[m",
		"a\x1b[2Jb":                              "ab",
		"a\x1b[10;10Hb":                          "ab",
		"a\x1b[?1049hb":                          "ab",
		"a\x1b[>4;2mb":                           "ab", // keyboard, not colours
		"a\x1b]0;title\x07b":                     "ab",
		"a\x1b]52;c;aGk=\x1b\\b":                 "ab",
		"a\x1b]8;;http://evil\x1b\\text":         "atext",
		"a\x1bP$qm\x1b\\b":                       "ab",
		"a\x1b_G\x1b\\b":                         "ab",
		"a\x1b]0;no end":                         "a",
		"a\x1b]0;no end\nnext":                   "a\nnext",
		"a\x1bcb":                                "ab",
		"a\x1b(0b":                               "ab",
		"a\x1b":                                  "a",
		"a\x1b[":                                 "a",
		"a\x1b[3\x1b[31mb":                       "a\x1b[31mb\x1b[0m",
		"a\u009b2Jb":                             "a2Jb",
		"a\u009d0;t\u009cb":                      "ab",
		"a\rb\x08c\x00d\x7fe\x07":                "abcde",
		"a\u202eb\u2066c":                        "abc",
		"\xff\x9b2J":                             "\ufffd\ufffd2J",
		"grüße 漢字 🙂":                             "grüße 漢字 🙂",
		"\x1b[" + strings.Repeat("1;", 99) + "m": "",
	} {
		if got := logtext.Harmless(in); got != want {
			t.Errorf("Harmless(%q) = %q, want %q", in, got, want)
		}
	}
}

const secret = "s3cr&t/Tö ken+=?"

func TestEverySensibleFormOfASecretIsHidden(t *testing.T) {
	c := logtext.New([]string{secret + "\n", "abc", "hunter2"})
	forms := map[string]string{
		"plain":        secret,
		"colours":      "s3cr\x1b[31m&t/Tö ke\x1b[0mn+=?",
		"cursor moves": "s3cr\x1b[1C&t/Tö\x00 ken+=?",
		"query":        url.QueryEscape(secret),
		"path":         url.PathEscape(secret),
		"lower hex":    strings.ToLower("s3cr%26t%2F") + "T%c3%b6%20ken%2B%3D%3F",
		"everything":   percent(secret),
		"JSON":         string(must(json.Marshal(secret))),
		"Go":           fmt.Sprintf("%+q", secret),
		"hex":          hex.EncodeToString([]byte(secret)),
		"HEX":          fmt.Sprintf("%X", secret),
		"odd hex":      "a" + hex.EncodeToString([]byte(secret)),
		"hex of short": hex.EncodeToString([]byte("hunter2")),
		"in a word":    "xhunter2x",
	}
	for _, enc := range map[string]*base64.Encoding{"std": base64.StdEncoding, "url": base64.URLEncoding, "raw": base64.RawURLEncoding} {
		for pre := range 4 {
			for post := range 3 {
				for _, s := range []string{secret, "hunter2"} {
					text := enc.EncodeToString([]byte(strings.Repeat("u", pre) + s + strings.Repeat("v", post)))
					forms[fmt.Sprintf("base64 %d %d %s", pre, post, text)] = text
					forms["escaped "+text] = url.QueryEscape(text)
					forms["glued "+text] = "token" + text
				}
			}
		}
	}
	for name, form := range forms {
		got := c.Clean("before " + form + " after")
		if !strings.Contains(got, logtext.Hidden) || !strings.HasPrefix(got, "before ") || !strings.HasSuffix(got, " after") {
			t.Errorf("%s: Clean(%q) = %q", name, form, got)
		}
		for _, s := range []string{"hunter2", "ken", "aHVudGVyMg", "2f54c3"} {
			if strings.Contains(got, s) && !strings.Contains("token", s) || strings.Contains(got, "token") && !strings.HasPrefix(name, "glued") {
				t.Errorf("%s: Clean(%q) = %q still holds %q", name, form, got, s)
			}
		}
	}
}

// A key in a file of many lines, as a build prints it with cat, and with base64, which breaks lines.
func TestASecretOfManyLines(t *testing.T) {
	var file strings.Builder
	for i := range 20 {
		fmt.Fprintf(&file, "line %d of the very secret key %x\n", i, i*7919)
	}
	c := logtext.New([]string{file.String()})
	for line := range strings.Lines(file.String()) {
		if got := c.Clean(strings.TrimRight(line, "\n")); got != logtext.Hidden {
			t.Errorf("a line of it: %q", got)
		}
	}
	for _, width := range []int{76, 64, 50, 33} {
		text := base64.StdEncoding.EncodeToString([]byte(file.String()))
		for len(text) > width {
			got := c.Clean(text[:width])
			if left := strings.ReplaceAll(got, logtext.Hidden, ""); len(left) > 8 {
				t.Errorf("of base64 in lines of %d: %q shows %q", width, text[:width], got)
			}
			text = text[width:]
		}
	}
}

// The longest of several that begin alike is hidden, and all of one that is longer than what is looked for.
func TestSecretsThatBeginAlike(t *testing.T) {
	long := ""
	for i := range 40 {
		long += strconv.Itoa(i*i*i) + "-"
	}
	c := logtext.New([]string{"hush", "hush-hush", "hush-hush-hush-3", "hush-1", "another", long, long[:70] + "other end"})
	for in, want := range map[string]string{
		"hush":                  "[secret]",
		"hush-":                 "[secret]-",
		"hush-hush-":            "[secret]-",
		"hush-hush-hush-2":      "[secret]-2",
		"hush-hush-hush-3":      "[secret]",
		"hush-1hush-2":          "[secret]-2",
		"husanother":            "hus[secret]",
		"<" + long + ">":        "<[secret]>",
		long[:70] + "other end": "[secret]",
	} {
		if got := c.Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}

// The attack: secrets and output that are made to be costly to look for.
func TestTheWorkIsBounded(t *testing.T) {
	var alike, nested strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&alike, "aaaaaaaaaa%d\n", i)
	}
	for i := range 400 {
		nested.WriteString(strings.Repeat("a", i+4) + "\n")
	}
	line := strings.Repeat("a", 256<<10)
	for name, secrets := range map[string][]string{"alike": {alike.String()}, "nested": {nested.String()}, "nearly": {strings.Repeat("a", 100<<10) + "b"}} {
		c := logtext.New(secrets)
		const slowest = 5 * time.Second
		took := slowest + 1
		for try := 0; try < 4 && took > slowest; try++ { // a busy machine may take its time once, not every time
			began := time.Now()
			c.Clean(line)
			c.Clean(strings.Repeat("%61", 80<<10))
			took = min(took, time.Since(began))
		}
		if took > slowest {
			t.Errorf("%s: %s", name, took)
		}
	}
}

func TestHonestLinesStay(t *testing.T) {
	c := logtext.New([]string{"//registry.example.com/:_authToken=npm_0123456789abcdef\n", "-----BEGIN KEY-----\nAAAABBBBCCCCDDDD0123\n-----END KEY-----", "abc", ""})
	for _, line := range []string{
		"fetched https://registry.example.com/left-pad from registry.example.com",
		"#3 sha256:3b1ee5c5b7b5f3a2c1d0e9f8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f0a9b8 done 100%", "abc abc", "------------------------------------", "",
		strings.Repeat("authentication/registry/", 100),
	} {
		if got := c.Clean(line); got != line {
			t.Errorf("Clean(%q) = %q", line, got)
		}
	}
	if got := (*logtext.Cleaner)(nil).Clean("a\x1b[2Jb"); got != "ab" {
		t.Errorf("without secrets: %q", got)
	}
}

func percent(s string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, "%%%02x", s[i])
	}
	return b.String()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func FuzzClean(f *testing.F) {
	f.Add("x\x1b[31mhunter2\\u0041%41\x1b]")
	f.Add("aHVudGVyMg==\u009d\xc2")
	c := logtext.New([]string{"hunter2", "other secret text"})
	f.Fuzz(func(t *testing.T, s string) {
		got := c.Clean(s)
		if !utf8.ValidString(got) && utf8.ValidString(s) {
			t.Errorf("Clean(%q) = %q is no UTF-8", s, got)
		}
		if strings.Contains(got, "hunter2") {
			t.Errorf("Clean(%q) = %q", s, got)
		}
		for _, r := range strings.ReplaceAll(got, "\x1b[", "") {
			if r != '\t' && r != '\n' && r < ' ' || r >= 0x7f && r < 0xa0 {
				t.Errorf("Clean(%q) = %q holds %q", s, got, r)
			}
		}
	})
}

func BenchmarkClean(b *testing.B) {
	c := logtext.New([]string{secret, strings.Repeat("another secret line\n", 50)})
	line := "#12   Get:17 http://deb.example.com/debian bookworm/main amd64 libssl-dev amd64 3.0.15-1~deb12u1 [2,439 kB]"
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		c.Clean(line)
	}
}
