package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	"midspan/internal/engine"
)

// Client asks the daemon behind a control socket.
type Client struct {
	path string
	http *http.Client
}

// Error is a daemon's answer that it could not or would not do it.
type Error struct {
	Code int // the HTTP status
	Text string
}

func (e *Error) Error() string { return e.Text }

// Dial returns a Client for the socket at path, or at DefaultControl if path is
// empty. It connects for each request anew, so there is nothing to close.
func Dial(path string) *Client {
	if path == "" {
		path = DefaultControl()
	}
	return &Client{path: path, http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dialControl(ctx, path) },
	}}}
}

func dialControl(ctx context.Context, path string) (net.Conn, error) {
	if dir := filepath.Dir(path); dir == temporaryDir() {
		if err := ownedBy(dir, os.Geteuid()); err != nil {
			return nil, err // whoever answers there is not ours
		}
	}
	return new(net.Dialer).DialContext(ctx, "unix", path)
}

// Status is the daemon's.
func (c *Client) Status(ctx context.Context) (Status, error) { return get[Status](ctx, c, pathStatus) }

// Conns are the live connections, oldest first.
func (c *Client) Conns(ctx context.Context) ([]engine.Conn, error) {
	return get[[]engine.Conn](ctx, c, pathConns)
}

// Kill resets a connection and tells whether there was one of that ID.
func (c *Client) Kill(ctx context.Context, id string) (bool, error) {
	err := c.do(ctx, http.MethodDelete, pathConns+"/"+url.PathEscape(id), nil)
	if refused := new(Error); errors.As(err, &refused) && refused.Code == http.StatusNotFound {
		return false, nil
	}
	return err == nil, err
}

// Reload makes the daemon read its file again and returns the warnings. If the
// daemon refuses the file, the error is an *Error with all that it says.
func (c *Client) Reload(ctx context.Context) (warnings []string, err error) {
	var answer reloadAnswer
	err = c.do(ctx, http.MethodPost, pathReload, &answer)
	return answer.Warnings, err
}

// Drain begins a drain and does not wait for its end.
func (c *Client) Drain(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, pathDrain, nil)
}

// Plan is the plan in force, as JSON.
func (c *Client) Plan(ctx context.Context) (json.RawMessage, error) {
	return get[json.RawMessage](ctx, c, pathPlan)
}

// Version says which midspan answers.
func (c *Client) Version(ctx context.Context) (Version, error) {
	return get[Version](ctx, c, pathVersion)
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	var v T
	err := c.do(ctx, http.MethodGet, path, &v)
	return v, err
}

// do makes one request and decodes the answer into v; nil if there is none.
func (c *Client) do(ctx context.Context, method, path string, v any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://midspan"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.explain(ctx, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("the answer from %s breaks off: %w", c.path, err)
	}
	if resp.StatusCode >= 300 {
		var e errorAnswer
		if json.Unmarshal(body, &e) != nil || e.Error == "" {
			return fmt.Errorf("%s answers %s: is it midspan's?", c.path, resp.Status)
		}
		return &Error{resp.StatusCode, e.Error}
	}
	if v == nil {
		return nil
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%s gives an answer that this midspan does not understand; is the daemon of another version? %w", c.path, err)
	}
	return nil
}

// explain makes of an HTTP client's error what it means here.
func (c *Client) explain(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("no answer from midspan at %s: %w", c.path, ctx.Err())
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("no midspan answers at %s: is it running? (control: in the file, or --control)", c.path)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("this user may not use %s: permission denied; be root, or the user that midspan runs as", c.path)
	}
	if u := new(url.Error); errors.As(err, &u) {
		err = u.Err
	}
	return fmt.Errorf("cannot ask midspan at %s: %w", c.path, err)
}
