package channel

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
)

// How refusals turn into waiting: after some that are free each one makes whoever shows what is wrong wait twice as long, unheard. A device
// is held back where somebody guesses at it, and only there. What comes from one network is held back together, but for devices that
// were let in from there before: they need not answer for a neighbour.
var (
	perPair    = limit{free: 5, first: 2 * time.Second, most: 15 * time.Minute}
	perAddress = limit{free: 50, first: 2 * time.Second, most: 15 * time.Minute}
)

const (
	forgetAfter = time.Hour
	forgetMost  = 1000 // at once
)

type limit struct {
	free        int64
	first, most time.Duration
}

func (l limit) delay(failures int64) time.Duration {
	if failures < l.free {
		return 0
	}
	return min(l.first<<min(failures-l.free, 20), l.most)
}

// recorded says which refusals of a device from a network are written into the audit log: the first, the tenth, the hundredth.
func recorded(failures int64) bool {
	for n := int64(1); n <= failures; n *= 10 {
		if n == failures {
			return true
		}
	}
	return false
}

func pairKey(from string, device int64) string {
	return networkOf(from) + " " + strconv.FormatInt(device, 10)
}

// counter is one count of refusals.
type counter struct {
	name, key string
	limit     limit
}

func counters(ask api.ChannelLogin, l *look) (all []counter) {
	if l.device != 0 {
		all = append(all, counter{"pair", pairKey(ask.From, l.device), perPair})
	}
	if l.device == 0 || l.lastFrom.String != networkOf(ask.From) {
		all = append(all, counter{"address", networkOf(ask.From), perAddress})
	}
	return all
}

// held finds out whether a device, or whoever says to be it, is made to wait.
func (c *Channel) held(ctx context.Context, tx *db.Tx, ask api.ChannelLogin, l *look) error {
	for _, n := range counters(ask, l) {
		failures, last, err := failed(ctx, tx, n)
		if err != nil {
			return err
		}
		l.forgive = l.forgive || n.name == "pair" && failures > 0
		if tx.Now.Sub(last) < n.limit.delay(failures) {
			l.why, l.count = "too much was refused before", false
		}
	}
	return nil
}

func failed(ctx context.Context, tx *db.Tx, n counter) (failures int64, last time.Time, err error) {
	var text string
	err = tx.QueryRowContext(ctx, `SELECT failures, last_at FROM channel_refusal WHERE counter = ? AND key = ?`, n.name, n.key).Scan(&failures, &text)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, last, nil
	}
	if err != nil {
		return 0, last, fmt.Errorf("refused logins: %w", err)
	}
	last, err = db.ParseTime(text)
	if err == nil && tx.Now.Sub(last) > forgetAfter {
		failures = 0
	}
	return failures, last, err
}

// refuse counts a refusal and gives the answer to it.
func (c *Channel) refuse(ctx context.Context, ask api.ChannelLogin, l look, request string) error {
	c.cfg.Log.InfoContext(ctx, "a device is not let into the control channel", "uuid", short(ask.UUID), "from", short(ask.From),
		"instance", ask.Instance, "request", request, "why", l.why)
	if !l.count {
		return errRefused
	}
	err := c.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		for _, n := range counters(ask, &l) {
			failures, _, err := failed(ctx, tx, n)
			if err != nil {
				return err
			}
			failures++
			_, err = tx.ExecContext(ctx, `INSERT INTO channel_refusal (counter, key, failures, last_at) VALUES (?, ?, ?, ?)
				ON CONFLICT (counter, key) DO UPDATE SET failures = excluded.failures, last_at = excluded.last_at`,
				n.name, n.key, failures, tx.NowText())
			if err != nil {
				return fmt.Errorf("count a refused login: %w", err)
			}
			if n.name != "pair" || !recorded(failures) {
				continue
			}
			by := access.Nobody()
			by.Address, by.Request = ask.From, request
			err = audit.Record(ctx, tx, by, audit.Entry{
				Act: "channel.open", Result: audit.Refused, Kind: "device", ID: l.device, Name: ask.UUID, Organization: l.org, Fleet: l.fleet,
				Detail: map[string]any{"why": l.why, "times": failures},
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return errors.Join(errRefused, err)
	}
	return errRefused
}

// short bounds a text from outside for the log.
func short(s string) string { return s[:min(len(s), maxName)] }

// forgetRefusals drops counters whose last refusal is long past.
func (c *Channel) forgetRefusals(ctx context.Context) error {
	old := func(tx *db.Tx) string { return db.FormatTime(tx.Now.Add(-forgetAfter)) }
	var some bool
	err := c.cfg.DB.ReadOne(ctx, func(tx *db.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM channel_refusal WHERE last_at < ?)`, old(tx)).Scan(&some)
	})
	if err != nil || !some {
		return err
	}
	return c.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM channel_refusal WHERE (counter, key) IN
			(SELECT counter, key FROM channel_refusal WHERE last_at < ? ORDER BY last_at LIMIT ?)`, old(tx), forgetMost)
		return err
	})
}
