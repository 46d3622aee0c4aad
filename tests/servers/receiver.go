// A receiver on Go's net/http, for the tests of the sender. Its one argument is JSON; see tests/real_servers.py.
package main

import (
	"compress/gzip"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

type identity struct {
	Port int
	Cert string
	Key  string
	// Shown to who asks for the name localhost; others get the one above.
	NamedCert string
	NamedKey  string
}

type places struct {
	Port int
	TLS  []identity
}

func main() {
	var at places
	if err := json.Unmarshal([]byte(os.Args[1]), &at); err != nil {
		log.Fatal(err)
	}
	ended := make(chan error)
	for _, host := range []string{"127.0.0.1", "[::1]"} {
		listener, err := net.Listen("tcp", fmt.Sprintf("%s:%d", host, at.Port))
		if err != nil {
			log.Fatal(err)
		}
		go func() { ended <- server().Serve(listener) }()
	}
	for _, one := range at.TLS {
		listener, err := tls.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", one.Port), certificates(one))
		if err != nil {
			log.Fatal(err)
		}
		go func() { ended <- server().Serve(listener) }()
	}
	log.Fatal(<-ended)
}

func server() *http.Server {
	return &http.Server{Handler: http.HandlerFunc(answer), ErrorLog: log.New(io.Discard, "", 0)}
}

func certificates(one identity) *tls.Config {
	byDefault := load(one.Cert, one.Key)
	if one.NamedCert == "" {
		return &tls.Config{Certificates: []tls.Certificate{byDefault}}
	}
	named := load(one.NamedCert, one.NamedKey)
	return &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if hello.ServerName == "localhost" {
			return &named, nil
		}
		return &byDefault, nil
	}}
}

func load(cert, key string) tls.Certificate {
	loaded, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		log.Fatal(err)
	}
	return loaded
}

func answer(w http.ResponseWriter, r *http.Request) {
	name, argument, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if name == "early" {
		http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	switch name {
	case "echo":
		echo(w, r, body)
	case "status":
		status(w, argument)
	case "chunked":
		for _, piece := range []string{"one ", "two ", "three"} {
			io.WriteString(w, piece)
			w.(http.Flusher).Flush()
		}
	case "close":
		w.Header().Set("Connection", "close")
		io.WriteString(w, "closed")
	case "informational":
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		io.WriteString(w, "final")
	case "never":
		<-r.Context().Done()
	case "cut":
		connection, _, _ := w.(http.Hijacker).Hijack()
		io.WriteString(connection, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
		connection.Close()
	case "endless":
		for {
			if _, err := w.Write(make([]byte, 8192)); err != nil {
				return
			}
		}
	case "bomb":
		w.Header().Set("Content-Encoding", "gzip")
		packed := gzip.NewWriter(w)
		packed.Write(make([]byte, 10_000_000))
		packed.Close()
	case "drip":
		for {
			if _, err := w.Write([]byte(".")); err != nil || r.Context().Err() != nil {
				return
			}
			w.(http.Flusher).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	default:
		http.NotFound(w, r)
	}
}

func echo(w http.ResponseWriter, r *http.Request, body []byte) {
	digest := sha256.Sum256(body)
	headers := map[string]string{"host": r.Host, "content-length": strconv.FormatInt(r.ContentLength, 10)}
	for name, values := range r.Header {
		headers[strings.ToLower(name)] = values[0]
	}
	json.NewEncoder(w).Encode(map[string]any{
		"method":     r.Method,
		"target":     r.RequestURI,
		"headers":    headers,
		"bytes":      len(body),
		"sha256":     hex.EncodeToString(digest[:]),
		"connection": r.RemoteAddr,
	})
}

func status(w http.ResponseWriter, argument string) {
	code, _ := strconv.Atoi(argument)
	if code == 429 || code == 503 {
		w.Header().Set("Retry-After", "7")
	}
	w.WriteHeader(code)
	if code != 204 && code != 304 {
		io.WriteString(w, "status "+argument)
	}
}
