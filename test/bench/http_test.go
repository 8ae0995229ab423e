package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// httpConnection is a connection to Envoy that sends one request at a time. net/http would use as much CPU as Envoy does.
type httpConnection struct {
	address string
	conn    net.Conn
	reader  *bufio.Reader
}

// exchange sends an HTTP/1.1 request, reads the answer, and returns only the status.
func (c *httpConnection) exchange(request, buffer []byte) (status int, _ []byte, err error) {
	if c.conn == nil {
		if c.conn, err = net.DialTimeout("tcp", c.address, answerTimeout); err != nil {
			return 0, nil, err
		}
		c.reader = bufio.NewReader(c.conn)
	}
	if err := c.conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return 0, nil, err
	}
	if _, err := c.conn.Write(request); err != nil {
		return 0, nil, err
	}
	status, last, err := readAnswer(c.reader)
	if last || err != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
	return status, buffer, err
}

// readAnswer reads an answer with a content-length. last reports whether the server closes the connection afterwards.
func readAnswer(r *bufio.Reader) (status int, last bool, err error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return 0, false, err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) || len(line) < 12 {
		return 0, false, fmt.Errorf("%q is not a status line", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, false, err
	}
	length := -1
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return 0, false, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch string(name) { // Envoy writes names in lower case
		case "content-length":
			if length, err = strconv.Atoi(string(value)); err != nil {
				return 0, false, err
			}
		case "connection":
			last = string(value) == "close"
		}
	}
	if length < 0 {
		return 0, false, errors.New("the answer has no content-length")
	}
	_, err = io.CopyN(io.Discard, r, int64(length))
	return status, last, err
}

// httpTemplate returns the template of a request to Envoy with a token and an ID.
func httpTemplate(e endpoint) (requestTemplate, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nhost: api.velocity.quest\r\nauthorization: Bearer %s\r\n", e.Method, strings.ReplaceAll(e.Path, "{id}", idPlaceholder), tokenPlaceholder)
	for name, value := range browserHeaders {
		fmt.Fprintf(&b, "%s: %s\r\n", name, value)
	}
	b.WriteString("\r\n")
	return newTemplate([]byte(b.String()))
}
