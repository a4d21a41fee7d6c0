package odata

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/roadstead-io/roadstead/internal/db"

	"github.com/roadstead-io/roadstead/internal/odata/dialect"
)

// FileRefs names the bytes of every file that a row holds, for whoever keeps them: what it names not is wanted by nobody.
func (e *Engine) FileRefs(ctx context.Context, tx *db.Tx) (map[string]bool, error) {
	refs := map[string]bool{}
	for _, r := range e.schema.resources {
		for _, c := range r.Columns {
			if c.Type != WebResource || c.SQL != "" {
				continue
			}
			text := "SELECT " + dialect.Quote(c.Name) + " FROM " + r.table + " WHERE " + dialect.Quote(c.Name) + " IS NOT NULL"
			if err := addRefs(ctx, tx, text, refs); err != nil {
				return nil, fmt.Errorf("odata: files of %s.%s: %w", r.Name, c.Name, err)
			}
		}
	}
	return refs, nil
}

func addRefs(ctx context.Context, tx *db.Tx, text string, refs map[string]bool) error {
	rows, err := tx.QueryContext(ctx, text)
	if err != nil {
		return err
	}
	for rows.Next() {
		var data string
		var f File
		err := rows.Scan(&data)
		if err == nil {
			err = json.Unmarshal([]byte(data), &f)
		}
		if err != nil {
			return errors.Join(err, rows.Close())
		}
		refs[f.Ref] = true
	}
	return errors.Join(rows.Err(), rows.Close())
}
