package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// odataRoot is the version of the resource model that this client speaks.
const odataRoot = "/v7/"

// Query holds the options of an OData request, unescaped. Values from outside belong into a filter through [Where] only.
type Query struct {
	Select, Filter, Expand, OrderBy string
	Top, Skip                       int
}

// Encode is the query as it stands in an address, with its question mark; nothing for none.
func (q Query) Encode() string {
	var parts []string
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+"="+escapeOption(value))
		}
	}
	add("$select", q.Select)
	add("$filter", q.Filter)
	add("$expand", q.Expand)
	add("$orderby", q.OrderBy)
	if q.Top > 0 {
		add("$top", strconv.Itoa(q.Top))
	}
	if q.Skip > 0 {
		add("$skip", strconv.Itoa(q.Skip))
	}
	if len(parts) == 0 {
		return ""
	}
	return "?" + strings.Join(parts, "&")
}

// escapeOption escapes the value of a query option as balena's clients do: only "$(),;/=:" and the unreserved characters stay.
func escapeOption(s string) string {
	const keep = "$(),;/=:-_.~"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(keep, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// Where writes a filter: each ? of the text stands for the literal of one value. Strings are quoted, times become datetime
// literals, and a slice becomes a list for "in".
func Where(text string, values ...any) string {
	var b strings.Builder
	for _, part := range strings.SplitAfter(text, "?") {
		before, ok := strings.CutSuffix(part, "?")
		b.WriteString(before)
		if !ok {
			continue
		}
		if len(values) == 0 {
			panic(fmt.Sprintf("client.Where(%q): too few values", text)) // a mistake in the calling code, never in data
		}
		b.WriteString(literal(values[0]))
		values = values[1:]
	}
	if len(values) != 0 {
		panic(fmt.Sprintf("client.Where(%q): %d values too many", text, len(values)))
	}
	return b.String()
}

func literal(v any) string {
	if t, ok := v.(time.Time); ok {
		return "datetime'" + t.UTC().Format("2006-01-02T15:04:05.000Z") + "'"
	}
	switch rv := reflect.ValueOf(v); rv.Kind() {
	case reflect.String:
		return "'" + strings.ReplaceAll(rv.String(), "'", "''") + "'"
	case reflect.Int, reflect.Int64, reflect.Int32:
		return strconv.FormatInt(rv.Int(), 10)
	case reflect.Bool:
		return strconv.FormatBool(rv.Bool())
	case reflect.Slice:
		items := make([]string, rv.Len())
		for i := range items {
			items[i] = literal(rv.Index(i).Interface())
		}
		return "(" + strings.Join(items, ",") + ")"
	default:
		panic(fmt.Sprintf("client.Where: a %T has no literal", v)) // a mistake in the calling code, never in data
	}
}

// ID addresses a row by its number: device(5).
func ID(resource string, id int64) string { return fmt.Sprintf("%s(%d)", resource, id) }

// Key addresses a row by a natural key of one part: device(uuid='…'). Quotes stay literal and doubled, all else is escaped.
func Key(resource, name, value string) string {
	v := url.PathEscape(strings.ReplaceAll(value, "'", "''"))
	return resource + "(" + name + "='" + strings.ReplaceAll(v, "%27", "'") + "')"
}

type rows[T any] struct {
	D []T `json:"d"`
}

// Get reads the rows of a resource (or of a row address made by [ID] or [Key]) that the caller may see.
func Get[T any](ctx context.Context, c *Client, resource string, q Query) ([]T, error) {
	var answer rows[T]
	if err := c.Do(ctx, http.MethodGet, odataRoot+resource+q.Encode(), nil, &answer); err != nil {
		return nil, fmt.Errorf("read %s: %w", bare(resource), err)
	}
	return answer.D, nil
}

// One reads one row; none is api.ErrNotFound.
func One[T any](ctx context.Context, c *Client, resource string, q Query) (*T, error) {
	found, err := Get[T](ctx, c, resource, q)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, api.Errorf(api.NotFound, "no such %s", strings.ReplaceAll(bare(resource), "_", " "))
	}
	return &found[0], nil
}

// Count counts the rows that match a filter; an empty filter counts all.
func Count(ctx context.Context, c *Client, resource, filter string) (int, error) {
	var answer struct {
		D int `json:"d"`
	}
	if err := c.Do(ctx, http.MethodGet, odataRoot+resource+"/$count"+Query{Filter: filter}.Encode(), nil, &answer); err != nil {
		return 0, fmt.Errorf("count %s: %w", resource, err)
	}
	return answer.D, nil
}

// Create makes a row and gives it back as the server keeps it.
func Create[T any](ctx context.Context, c *Client, resource string, body any) (*T, error) {
	var row T
	if err := c.Do(ctx, http.MethodPost, odataRoot+resource, body, &row); err != nil {
		return nil, fmt.Errorf("create %s: %w", bare(resource), err)
	}
	return &row, nil
}

// Patch changes the rows at an address, or those that match the query's filter. Rows that the caller may not see are skipped
// silently, as everywhere on this wire.
func (c *Client) Patch(ctx context.Context, resource string, q Query, body any) error {
	if err := addressed(resource, q); err != nil {
		return err
	}
	if err := c.Do(ctx, http.MethodPatch, odataRoot+resource+q.Encode(), body, nil); err != nil {
		return fmt.Errorf("change %s: %w", bare(resource), err)
	}
	return nil
}

// Delete deletes the rows at an address, or those that match the query's filter.
func (c *Client) Delete(ctx context.Context, resource string, q Query) error {
	if err := addressed(resource, q); err != nil {
		return err
	}
	if err := c.Do(ctx, http.MethodDelete, odataRoot+resource+q.Encode(), nil, nil); err != nil {
		return fmt.Errorf("delete %s: %w", bare(resource), err)
	}
	return nil
}

// addressed keeps a forgotten filter from meaning "all".
func addressed(resource string, q Query) error {
	if q.Filter == "" && !strings.HasSuffix(resource, ")") {
		return api.Errorf(api.Invalid, "refusing to change every %s: no row is addressed", resource)
	}
	return nil
}

// Upsert creates a row, or changes the existing one with the same natural key (the named fields of body).
func (c *Client) Upsert(ctx context.Context, resource string, body map[string]any, natural ...string) error {
	err := c.Do(ctx, http.MethodPost, odataRoot+resource+"?returnResource=false", body, nil)
	if err == nil || !errors.Is(err, api.ErrConflict) || !strings.Contains(strings.ToLower(err.Error()), "unique") {
		if err != nil {
			return fmt.Errorf("set %s: %w", bare(resource), err)
		}
		return nil
	}
	change := map[string]any{}
	for k, v := range body {
		change[k] = v
	}
	var conditions []string
	for _, k := range natural {
		conditions = append(conditions, k+" eq "+literal(body[k]))
		delete(change, k)
	}
	return c.Patch(ctx, resource, Query{Filter: strings.Join(conditions, " and ")}, change)
}

func bare(resource string) string {
	resource, _, _ = strings.Cut(resource, "(")
	return resource
}

// Ref is a foreign key as the server sends it: {"__id": n} or null, and when it was expanded an array of nought or one rows.
type Ref[T any] struct {
	ID  int64 // 0: null
	Row *T    // nil: not expanded, or null
}

// UnmarshalJSON implements json.Unmarshaler.
func (r *Ref[T]) UnmarshalJSON(data []byte) error {
	*r = Ref[T]{}
	if len(data) > 0 && data[0] == '[' {
		var found []json.RawMessage
		if err := json.Unmarshal(data, &found); err != nil || len(found) == 0 {
			return err
		}
		var id struct {
			ID int64 `json:"id"`
		}
		_ = json.Unmarshal(found[0], &id) // id may not have been selected
		row := new(T)
		if err := json.Unmarshal(found[0], row); err != nil {
			return err
		}
		r.ID, r.Row = id.ID, row
		return nil
	}
	var deferred *struct {
		ID int64 `json:"__id"`
	}
	if err := json.Unmarshal(data, &deferred); err != nil {
		return err
	}
	if deferred != nil {
		r.ID = deferred.ID
	}
	return nil
}

// Get gives the expanded row, or an empty one.
func (r Ref[T]) Get() T {
	if r.Row == nil {
		var zero T
		return zero
	}
	return *r.Row
}
