package relay

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// holder names the process that listens on port, as ": PROGRAM (pid N) has it",
// or is empty where that cannot be seen (another user's process, another
// network namespace). Source: proc(5), /proc/net/tcp.
func holder(port uint16) string {
	inode := listeningInode(port)
	if inode == "" {
		return ""
	}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err != nil || target != "socket:["+inode+"]" {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		name, err := os.ReadFile("/proc/" + pid + "/comm")
		if err != nil {
			return ""
		}
		return fmt.Sprintf(": %s (pid %s) has it", strings.TrimSpace(string(name)), pid)
	}
	return ""
}

func listeningInode(port uint16) string {
	const listening = "0A"
	suffix := fmt.Sprintf(":%04X", port)
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(table)
		if err != nil {
			continue
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			// sl local rem st tx:rx tr:tm retrnsmt uid timeout inode …
			if c := strings.Fields(lines.Text()); len(c) > 9 && c[3] == listening && strings.HasSuffix(c[1], suffix) {
				return c[9]
			}
		}
	}
	return ""
}
