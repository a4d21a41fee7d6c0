// Package deviceurl is the service behind <uuid>.devices.DOMAIN: the public addresses of devices. What a browser sends there goes to the one
// port that the address leads to, when the api role lets it, and comes back without what would reach beyond the address.
package deviceurl

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/vpn/permit"
	"github.com/roadstead-io/roadstead/internal/vpn/road"
	"github.com/roadstead-io/roadstead/internal/web"
)

const (
	stallTime  = time.Minute // for which a visitor, or a device, may say nothing in the middle of something
	maxHeaders = 64 << 10    // of a request, and of an answer
	atOnce     = 16          // connections to one device that wait for the next request
	stopGrace  = time.Second
)

// Config is what the service works with.
type Config struct {
	Permits *permit.Permits
	API     *pki.Peer
	Dial    road.Dialer
	TLS     *tls.Config // of *.devices.DOMAIN
	Site    api.Site
	Log     *slog.Logger
	Limits  permit.Limits
}

// Service is the service.
type Service struct {
	cfg    Config
	leaves *leaves
	proxy  *httputil.ReverseProxy
}

// New makes it; it starts nothing.
func New(cfg Config) *Service {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	cfg.Limits.Defaults()
	s := &Service{cfg: cfg, leaves: newLeaves(cfg.Permits)}
	quiet := slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug)
	s.proxy = &httputil.ReverseProxy{
		Rewrite: rewrite, ModifyResponse: clean, ErrorHandler: s.failed, FlushInterval: -1, ErrorLog: quiet,
		Transport: &http.Transport{
			DialContext: s.dial, DisableCompression: true, MaxIdleConnsPerHost: atOnce, IdleConnTimeout: 30 * time.Second,
			ResponseHeaderTimeout: stallTime, MaxResponseHeaderBytes: maxHeaders, ExpectContinueTimeout: time.Second,
		},
	}
	return s
}

// Serve takes connections, which are not encrypted yet, until the context ends; then it ends those that it has.
func (s *Service) Serve(ctx context.Context, ln net.Listener) error {
	defer s.leaves.close()
	srv := &http.Server{
		Handler: s, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: stallTime, MaxHeaderBytes: maxHeaders,
		ErrorLog:    slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	conf := s.cfg.TLS.Clone()
	conf.NextProtos = []string{"http/1.1"} // over HTTP/2 a browser would use the connection to one device for another
	door := tls.NewListener(newDoor(ln, s.cfg.Limits.Visitors, s.cfg.Limits.WaitingPerAddress), conf)
	return web.Serve(ctx, srv, func() error { return srv.Serve(door) }, stopGrace)
}

// visit is a request of somebody for a device, in its context.
type visit struct {
	uuid  api.DeviceUUID
	leave *permit.Permit
	basic bool // the token of the address came as a password: it is not for the device
}

type visitKey struct{}

// ServeHTTP answers a visitor.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	uuid, ok := s.device(r)
	switch {
	case !ok:
		page(w, r, http.StatusNotFound, "There is nothing here", "No device has this address.")
		return
	case r.TLS != nil && !strings.EqualFold(r.TLS.ServerName, hostname(r.Host)):
		page(w, r, http.StatusMisdirectedRequest, "Another address", "This connection was made to another address.")
		return
	case r.Method == http.MethodConnect || r.Method == http.MethodTrace:
		page(w, r, http.StatusMethodNotAllowed, "Not possible", "This method is not served.")
		return
	case strings.HasPrefix(r.URL.Path, own):
		s.own(w, r, uuid)
		return
	}
	from, _, _ := net.SplitHostPort(r.RemoteAddr)
	ask := api.ReachRequest{Kind: api.ReachURL, UUID: uuid, From: from, Visit: cookie(r, visitCookie), Token: r.Header.Get(tokenHeader), PerDevice: s.cfg.Limits.PerDevice}
	v := visit{uuid: uuid}
	if _, password, given := r.BasicAuth(); given && ask.Token == "" {
		ask.Token, v.basic = password, true
	}
	leave, done, err := s.leaves.take(r.Context(), ask)
	if err != nil {
		s.refused(w, r, uuid, err)
		return
	}
	defer done()
	v.leave, v.basic = leave, v.basic && leave.ByToken
	ctx, cancel := context.WithCancel(context.WithValue(r.Context(), visitKey{}, v))
	defer cancel()
	stop := context.AfterFunc(leave.Context(), cancel)
	defer stop()
	r = r.WithContext(ctx)
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		r.Header.Del("Upgrade") // the one protocol that is carried
	}
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &upload{readCloser: http.MaxBytesReader(w, r.Body, int64(s.cfg.Limits.URLMegabytes)<<20), w: http.NewResponseController(w), leave: leave}
	}
	s.proxy.ServeHTTP(w, r)
}

// device is the device that a request names.
func (s *Service) device(r *http.Request) (api.DeviceUUID, bool) {
	label, ok := strings.CutSuffix(strings.ToLower(hostname(r.Host)), ".devices."+s.cfg.Site.Domain)
	uuid := api.DeviceUUID(label)
	return uuid, ok && uuid.Valid()
}

func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return host
}

func cookie(r *http.Request, name string) string {
	c, err := r.Cookie(name)
	if err != nil {
		return ""
	}
	return c.Value
}

// rewrite makes the request that the device sees. Its host is a name that nothing resolves: see [Service.dial].
func rewrite(p *httputil.ProxyRequest) {
	v, _ := p.In.Context().Value(visitKey{}).(visit)
	p.Out.URL.Scheme = "http"
	p.Out.URL.Host = string(v.uuid) + ".roadstead:" + strconv.Itoa(v.leave.Port)
	p.Out.Host = p.In.Host
	toDevice(p.Out.Header, v.basic)
	p.SetXForwarded()
}

// dial opens the way to the device whose uuid rewrite put in place of a host.
func (s *Service) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	uuid, ok := strings.CutSuffix(host, ".roadstead")
	port, err := strconv.Atoi(text)
	if err != nil || !ok || !api.DeviceUUID(uuid).Valid() {
		return nil, fmt.Errorf("device address %q", addr)
	}
	conn, err := s.cfg.Dial.Dial(ctx, uuid, port)
	if err != nil {
		return nil, err
	}
	return &patient{Conn: conn}, nil
}

// clean makes of the device's answer what the visitor sees.
func clean(res *http.Response) error {
	toVisitor(res.Header)
	v, _ := res.Request.Context().Value(visitKey{}).(visit)
	if both, ok := res.Body.(io.ReadWriteCloser); ok && res.StatusCode == http.StatusSwitchingProtocols {
		res.Body = &socket{both, v.leave}
		return nil
	}
	res.Body = &download{res.Body, v.leave}
	return nil
}

// failed tells why the device gave no answer.
func (s *Service) failed(w http.ResponseWriter, r *http.Request, err error) {
	v, _ := r.Context().Value(visitKey{}).(visit)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		page(w, r, http.StatusRequestEntityTooLarge, "Too large", "This is more than may be sent at a time.")
	case errors.Is(err, road.ErrOffline):
		offline(w, r)
	case errors.Is(err, road.ErrRefused):
		page(w, r, http.StatusBadGateway, "Nothing answers", fmt.Sprintf("The device is connected, but nothing listens on its port %d.", v.leave.Port))
	case v.leave.Context().Err() != nil:
		page(w, r, http.StatusServiceUnavailable, "Not any more", "This address was closed, or your access to it ended.")
	default:
		s.cfg.Log.DebugContext(r.Context(), "public address", "uuid", v.uuid, "error", err)
		page(w, r, http.StatusBadGateway, "No answer", "The device is connected, but gave no answer that could be understood.")
	}
}

// refused answers whoever is not let in. An address that is off, and one of no device, read the same.
func (s *Service) refused(w http.ResponseWriter, r *http.Request, uuid api.DeviceUUID, err error) {
	switch e := api.AsError(err); e.Code {
	case api.Unauthorized:
		if e.Text == api.VisitToken {
			w.Header().Set("WWW-Authenticate", `Basic realm="device", charset="UTF-8"`)
			page(w, r, http.StatusUnauthorized, "A token is needed", "Give the token of this address as the password, or in the header "+tokenHeader+".")
			return
		}
		s.logIn(w, r, uuid)
	case api.NotFound, api.Forbidden, api.Invalid:
		page(w, r, http.StatusNotFound, "There is nothing here", "No device has this address.")
	case api.RateLimited:
		w.Header().Set("Retry-After", "10")
		page(w, r, http.StatusTooManyRequests, "Too many visitors", e.Text)
	default:
		if e.Code != api.Unavailable {
			s.cfg.Log.ErrorContext(r.Context(), "public address", "uuid", uuid, "error", err)
		}
		w.Header().Set("Retry-After", "5")
		page(w, r, http.StatusServiceUnavailable, "In a moment", "The server is starting. Try again.")
	}
}
