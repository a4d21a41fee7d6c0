//go:build cgo

package sqlite

/*
// The driver compiles the library and has no way to what is set here. These are defined where the program is put together; until
// then nobody has to know them.
extern int sqlite3_config(int, ...) __attribute__((weak));
extern int sqlite3_db_config(void *, int, ...) __attribute__((weak));
extern int sqlite3_auto_extension(void (*)(void)) __attribute__((weak));
extern int mallopt(int, int) __attribute__((weak));

enum { arena_max = -8 };
enum { config_memstatus = 9, db_config_enable_qpsg = 1007, db_config_dqs_dml = 1013, db_config_dqs_ddl = 1014 };

static int opened(void *db, char **message, const void *api) {
	(void)message, (void)api;
	int rc = sqlite3_db_config(db, db_config_dqs_dml, 0, (int *)0);
	if (!rc) rc = sqlite3_db_config(db, db_config_dqs_ddl, 0, (int *)0);
	return rc ? rc : sqlite3_db_config(db, db_config_enable_qpsg, 1, (int *)0);
}

static int prepare_library(void) {
	if (mallopt) mallopt(arena_max, 2); // glibc's: as many heaps as there are threads hold what others could use
	int rc = sqlite3_config(config_memstatus, 0);
	return rc ? rc : sqlite3_auto_extension((void (*)(void))opened);
}
*/
import "C"

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/mattn/go-sqlite3"
)

// Library says which one this program has.
const Library = "C"

// prepare sets what holds for all connections. An unknown "name" is an error and no text. A statement's plan does not depend on the
// values that are bound to it: else a statement with a value that is compared with the condition of an index would be planned anew each
// time it runs, for this driver forgets the last time's values. And no account is kept of the memory, which every allocation of every
// connection would wait for.
var prepare = sync.OnceValue(func() error {
	if rc := C.prepare_library(); rc != 0 {
		return fmt.Errorf("sqlite: the library does not take its settings: %d", rc)
	}
	return nil
})

// Source makes connections.
type Source struct{ cfg Config }

// Open makes a source; it connects to nothing yet.
func Open(cfg Config) (*Source, error) { return &Source{cfg}, prepare() }

// Close ends the source; its connections are closed by whoever has them.
func (s *Source) Close() error { return nil }

// Driver is the driver of its connections.
func (s *Source) Driver() driver.Driver { return &sqlite3.SQLiteDriver{} }

// Connect makes a connection. One goroutine at a time uses it, so it has no lock of its own.
func (s *Source) Connect(ctx context.Context) (Conn, error) {
	made, err := s.Driver().Open(uri(s.cfg.Path) + "?_mutex=no")
	if err != nil {
		return nil, err
	}
	c, ok := made.(*sqlite3.SQLiteConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("sqlite: the driver's connection is a %T", made), made.Close())
	}
	c.SetLimit(limitLength, s.cfg.MaxValue)
	err = errors.Join(c.RegisterFunc("floor", rounding(math.Floor), true), c.RegisterFunc("ceil", rounding(math.Ceil), true),
		run(ctx, c, s.cfg.Pragmas))
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// rounding is a function of SQL that the driver compiles without.
func rounding(round func(float64) float64) func(any) any {
	return func(v any) any {
		switch v := v.(type) {
		case int64:
			return v
		case float64:
			return round(v)
		}
		return nil
	}
}

// Code is the code of an error of SQLite's, the extended one where there is one.
func Code(err error) (code int, text string, ok bool) {
	var e sqlite3.Error
	if !errors.As(err, &e) {
		return 0, "", false
	}
	return max(int(e.ExtendedCode), int(e.Code)), e.Error(), true
}
