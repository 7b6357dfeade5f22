package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// maxFile is how much of a file is read, in bytes. The bundle of all public CAs
// has 220 KiB.
const maxFile = 4 << 20

// read is the content of a file; the error says what is wrong in words that can
// follow the file's name.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, plain(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, errors.New("this is a directory; write the name of a PEM file in it")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, plain(err)
	case len(b) > maxFile:
		return nil, errors.New("larger than 4 MiB; is it the right file?")
	case len(bytes.TrimSpace(b)) == 0:
		return nil, errors.New("the file is empty")
	}
	return b, nil
}

// plain is err without the operation and the file's name.
func plain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("there is no such file")
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("not readable for this user (uid %d)", os.Geteuid())
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// blocks are the PEM blocks of b whose type ends so.
func blocks(b []byte, suffix string) (found []*pem.Block) {
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			return found
		}
		if bytes.HasSuffix([]byte(block.Type), []byte(suffix)) {
			found = append(found, block)
		}
	}
}

const (
	certificate = "CERTIFICATE"
	privateKey  = "PRIVATE KEY" // of any kind: "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY"
)

// pair is a certificate with its key. file says which of the two files an error
// is about.
func pair(certFile, keyFile string) (c *tls.Certificate, expires time.Time, file string, err error) {
	certs, err := read(certFile)
	if err != nil {
		return nil, expires, certFile, err
	}
	chain, err := parse(certs)
	if err != nil {
		return nil, expires, certFile, err
	}
	keys, file := certs, certFile
	if keyFile != "" {
		file = keyFile
		if keys, err = read(keyFile); err != nil {
			return nil, expires, keyFile, err
		}
	}
	if err := keyIn(keys, keyFile == ""); err != nil {
		return nil, expires, file, err
	}
	got, err := tls.X509KeyPair(certs, keys)
	if err != nil {
		return nil, expires, file, explain(err, chain, certFile, keys)
	}
	expires = chain[0].NotAfter
	for _, x := range chain {
		if x.NotAfter.Before(expires) {
			expires = x.NotAfter
		}
	}
	return &got, expires, "", nil
}

// parse reads the certificates of b, of which there must be one.
func parse(b []byte) ([]*x509.Certificate, error) {
	found := blocks(b, certificate)
	if len(found) == 0 {
		switch {
		case len(blocks(b, privateKey)) > 0:
			return nil, errors.New("no certificate in it, only a private key")
		case b[0] == 0x30: // an ASN.1 SEQUENCE
			return nil, errors.New("no PEM: this looks like DER; convert it: openssl x509 -inform der -in FILE")
		}
		return nil, errors.New("no certificate in it (there is no line -----BEGIN CERTIFICATE-----)")
	}
	var chain []*x509.Certificate
	for i, block := range found {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d in it: %w", i+1, err)
		}
		chain = append(chain, c)
	}
	return chain, nil
}

// keyIn checks that b has a key that can be used; same: it is the file of the
// certificate.
func keyIn(b []byte, same bool) error {
	found := blocks(b, privateKey)
	switch {
	case len(found) == 0 && same:
		return errors.New("no private key in it; append it, or write key: FILE")
	case len(found) == 0:
		return errors.New("no private key in it (there is no line -----BEGIN PRIVATE KEY-----)")
	case found[0].Type == "ENCRYPTED "+privateKey || found[0].Headers["DEK-Info"] != "":
		return errors.New("the private key has a password, and nobody is there to give it; write it without: openssl pkey -in FILE -out NEW")
	}
	return nil
}

// explain says more of a certificate and a key that are no pair.
func explain(err error, chain []*x509.Certificate, certFile string, keys []byte) error {
	for _, other := range chain[1:] {
		alone := pem.EncodeToMemory(&pem.Block{Type: certificate, Bytes: other.Raw})
		if _, err := tls.X509KeyPair(alone, keys); err == nil {
			return fmt.Errorf("the certificate of this key, %s, is not the first in %s; put it first, then those that sign it", other.Subject, certFile)
		}
	}
	if err.Error() == "tls: private key does not match public key" {
		return fmt.Errorf("the private key is not that of the certificate in %s (%s)", certFile, chain[0].Subject)
	}
	return err
}

// pool is the certificates of a file as those who may sign. One that cannot be
// read is left out, if there are others: bundles have such.
func pool(file string) (*x509.CertPool, []byte, error) {
	b, err := read(file)
	if err != nil {
		return nil, nil, err
	}
	p := x509.NewCertPool()
	if p.AppendCertsFromPEM(b) {
		return p, b, nil
	}
	if _, err = parse(b); err == nil {
		err = errors.New("no certificate in it that can be used")
	}
	return nil, nil, err
}

// stamp is what tells one content of a file from the next. A Kubernetes secret is
// a link to another file from then on.
type stamp struct {
	size          int64
	inode         uint64
	mtime, change syscall.Timespec
}

// stampOf is the zero stamp where there is no file.
func stampOf(path string) stamp {
	var st syscall.Stat_t
	if syscall.Stat(path, &st) != nil {
		return stamp{}
	}
	return stamp{st.Size, st.Ino, st.Mtim, st.Ctim}
}
