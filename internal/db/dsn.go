package db

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// IsPostgresURL reports whether an address is one of a PostgreSQL database.
func IsPostgresURL(address string) bool {
	return strings.HasPrefix(address, "postgres://") || strings.HasPrefix(address, "postgresql://")
}

// HasPassword reports whether an address holds a password.
func HasPassword(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return true // nobody knows
	}
	_, inUser := u.User.Password()
	return inUser || u.Query().Has("password")
}

// Complete gives an address with all that whoever uses it needs: what it leaves to the environment (PGUSER, PGPASSWORD and the
// like) and to files of passwords (passfile, .pgpass) stands in it. reach names the files and directories that must be reached
// to use it: certificates, and the directory of a socket. Errors do not show the password.
func Complete(address string) (full string, reach []string, err error) {
	if !IsPostgresURL(address) {
		return "", nil, errors.New("want postgres://USER@HOST/DATABASE")
	}
	cfg, _, err := parseDSN(address)
	if err != nil {
		return "", nil, err
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", nil, errors.New("it is no URL") // the parser's own error shows all of it
	}
	if cfg.User == "" {
		return "", nil, errors.New("it names no user")
	}
	query := u.Query()
	u.User = url.User(cfg.User)
	if cfg.Password != "" {
		u.User = url.UserPassword(cfg.User, cfg.Password)
	}
	for _, gone := range []string{"passfile", "user", "password", "service", "servicefile"} {
		query.Del(gone)
	}
	if database := cfg.Database; database != "" {
		u.Path = "/" + database
		query.Del("dbname")
		query.Del("database")
	}
	if u.Host == "" {
		query.Set("host", cfg.Host)
		query.Set("port", fmt.Sprint(cfg.Port))
	}
	u.RawQuery = query.Encode()
	for _, name := range []string{"sslrootcert", "sslcert", "sslkey"} {
		if file := query.Get(name); strings.HasPrefix(file, "/") {
			reach = append(reach, file)
		}
	}
	for _, host := range hosts(cfg) {
		if strings.HasPrefix(host, "/") {
			reach = append(reach, host)
		}
	}
	return u.String(), reach, nil
}

func hosts(cfg *pgx.ConnConfig) []string {
	all := []string{cfg.Host}
	for _, f := range cfg.Fallbacks {
		if !slices.Contains(all, f.Host) {
			all = append(all, f.Host)
		}
	}
	return all
}

// libpq are the parameters that an address may have for PostgreSQL's own programs. Others are ours, the driver's, or settings of a
// session that a copy does not need.
var libpq = []string{
	"host", "hostaddr", "port", "dbname", "user", "connect_timeout", "application_name", "keepalives", "keepalives_idle",
	"keepalives_interval", "keepalives_count", "tcp_user_timeout", "sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslsni",
	"ssl_min_protocol_version", "ssl_max_protocol_version", "channel_binding", "krbsrvname", "gssencmode", "target_session_attrs",
}

// ForLibpq gives a complete address as PostgreSQL's own programs take it, and the password apart: it goes into their
// environment (PGPASSWORD), for their arguments can be read by everybody.
func ForLibpq(address string) (uri, password string, err error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", "", errors.New("the address of the database is no URL")
	}
	password, _ = u.User.Password()
	if u.User != nil {
		u.User = url.User(u.User.Username())
	}
	query := u.Query()
	for name := range query {
		if !slices.Contains(libpq, name) {
			query.Del(name)
		}
	}
	u.RawQuery = query.Encode()
	return u.String(), password, nil
}
