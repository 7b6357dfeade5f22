package e2e

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"math/rand/v2"

	_ "github.com/go-sql-driver/mysql"

	"midspan/e2e/rig"
)

// dbClient does the same work whenever it is run with the same id.
type dbClient struct {
	ctx  context.Context
	conn *sql.Conn
	id   int
	hash hash.Hash
}

// work returns the hash of all rows that were seen.
func (c *dbClient) work() (string, error) {
	c.hash = sha256.New()
	steps := []struct {
		name  string
		every int // only each n-th client, where it is heavy
		do    func() error
	}{
		{"point selects", 1, c.pointSelects},
		{"prepared statement", 1, c.prepared},
		{"transactions", 1, c.transactions},
		{"multi-statement", 1, c.multiStatement},
		{"5 MB result", 10, c.wideResult},
		{"16 MiB blob", 25, c.blob},
	}
	for _, s := range steps {
		if c.id%s.every == 0 {
			if err := s.do(); err != nil {
				return "", fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	return hex.EncodeToString(c.hash.Sum(nil)), nil
}

func (c *dbClient) pointSelects() error {
	r := rand.New(rand.NewPCG(uint64(c.id), 1))
	for range 30 {
		// Without arguments it is the text protocol.
		q := fmt.Sprintf("SELECT id, name, big FROM points WHERE id = %d", 1+r.IntN(dbRows))
		if err := c.add(c.conn.QueryContext(c.ctx, q)); err != nil {
			return err
		}
	}
	return nil
}

func (c *dbClient) prepared() error {
	st, err := c.conn.PrepareContext(c.ctx, "SELECT id, name FROM points WHERE id BETWEEN ? AND ? ORDER BY id")
	if err != nil {
		return err
	}
	defer st.Close()
	for i := range 20 {
		from := 1 + (c.id*37+i*101)%(dbRows-50)
		if err := c.add(st.QueryContext(c.ctx, from, from+i)); err != nil {
			return err
		}
	}
	return nil
}

// transactions commit four times and roll back once.
func (c *dbClient) transactions() error {
	for i := range 5 {
		tx, err := c.conn.BeginTx(c.ctx, nil)
		if err != nil {
			return err
		}
		for j := range 3 {
			if _, err := tx.ExecContext(c.ctx, "INSERT INTO orders VALUES (?, ?, ?)", c.id, i*3+j, fmt.Sprintf("order %d of %d", i*3+j, c.id)); err != nil {
				return errors.Join(err, tx.Rollback())
			}
		}
		end := tx.Commit
		if i == 2 {
			end = tx.Rollback
		}
		if err := end(); err != nil {
			return err
		}
	}
	return c.add(c.conn.QueryContext(c.ctx, "SELECT * FROM orders WHERE client = ? ORDER BY n", c.id))
}

func (c *dbClient) multiStatement() error {
	q := fmt.Sprintf("SELECT %d; SELECT COUNT(*), MIN(id) FROM points; SET @x = %d; SELECT @x + 1; SELECT name FROM points WHERE id < 20", c.id, c.id)
	return c.add(c.conn.QueryContext(c.ctx, q))
}

func (c *dbClient) wideResult() error {
	return c.add(c.conn.QueryContext(c.ctx, "SELECT * FROM wide ORDER BY id"))
}

func (c *dbClient) blob() error {
	body := rig.Bytes(uint64(c.id), 16<<20)
	if _, err := c.conn.ExecContext(c.ctx, "INSERT INTO blobs VALUES (?, ?)", c.id, body); err != nil {
		return err
	}
	var back []byte
	if err := c.conn.QueryRowContext(c.ctx, "SELECT body FROM blobs WHERE client = ?", c.id).Scan(&back); err != nil {
		return err
	}
	want, got := sha256.Sum256(body), sha256.Sum256(back)
	if want != got {
		return errors.New("the blob came back changed")
	}
	c.hash.Write(got[:])
	return nil
}

func (c *dbClient) add(rows *sql.Rows, err error) error {
	if err != nil {
		return err
	}
	return addRows(c.hash, rows)
}

// addRows hashes all result sets with the borders between cells.
func addRows(h hash.Hash, rows *sql.Rows) error {
	defer rows.Close()
	for {
		columns, err := rows.Columns()
		if err != nil {
			return err
		}
		cells := make([]sql.RawBytes, len(columns))
		into := make([]any, len(columns))
		for i := range cells {
			into[i] = &cells[i]
		}
		for rows.Next() {
			if err := rows.Scan(into...); err != nil {
				return err
			}
			for _, cell := range cells {
				fmt.Fprintf(h, "%d:%t:%s,", len(cell), cell == nil, cell)
			}
		}
		if err := rows.Err(); err != nil {
			return err
		}
		if !rows.NextResultSet() {
			return rows.Err()
		}
		fmt.Fprint(h, ";")
	}
}

func hashRows(rows *sql.Rows, err error) (string, error) {
	if err != nil {
		return "", err
	}
	h := sha256.New()
	if err := addRows(h, rows); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
