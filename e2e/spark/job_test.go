package spark

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// order is the argument of notebook.py.
type order struct {
	Source  map[string]string `json:"source"`
	Topic   string            `json:"topic"`
	Records int               `json:"records"`
	Sink    string            `json:"sink"`
}

// line is what notebook.py prints: Batch and Read after a micro-batch, the rest
// at the end.
type line struct {
	Batch      int     `json:"batch"`
	Read       int     `json:"read"`
	Partitions []share `json:"partitions"`
	Values     int     `json:"values"` // distinct ones
}

// share is what the sink holds of a partition.
type share struct {
	Partition int   `json:"partition"`
	Count     int64 `json:"count"`
	Distinct  int64 `json:"distinct"` // offsets
	First     int64 `json:"first"`
	Last      int64 `json:"last"`
}

// job is a notebook that runs.
type job struct {
	*rig.Proc
	t testing.TB
}

// The bounds on a job, on a machine that is busy: until what it is to read is
// written, with a broker away; until it has read what is there, and until it has
// counted.
const (
	writtenWithin = 3 * time.Minute
	readWithin    = 4 * time.Minute
	countWithin   = 2 * time.Minute
)

// start runs the notebook on a machine that knows these hosts only.
func (s installed) start(t *testing.T, on *rig.Net, hosts string, o order) *job {
	t.Helper()
	dir := t.TempDir()
	o.Sink = filepath.Join(dir, "sink")
	argument, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	notebook, err := filepath.Abs("notebook.py")
	if err != nil {
		t.Fatal(err)
	}
	return &job{rig.Start(t, rig.Spec{
		In: on, Hosts: "127.0.0.1 localhost\n" + hosts,
		Dir:     dir, // Spark leaves things where it is started
		Program: s.interpreter, Args: []string{notebook, string(argument)},
		Env: []string{"SPARK_LOCAL_IP=127.0.0.1", "PYSPARK_PYTHON=" + s.interpreter, "PYSPARK_SUBMIT_ARGS=" + s.submit(dir)},
	}), t}
}

// submit are the arguments of spark-submit: a small Spark that starts soon. The
// notebook has what concerns the source and the sink.
func (s installed) submit(dir string) string {
	args := []string{"--master", "local[2]", "--driver-memory", "1g"}
	for _, conf := range [][2]string{
		{"spark.driver.extraClassPath", s.classpath},
		{"spark.driver.extraJavaOptions", "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.io.tmpdir=" + dir},
		{"spark.driver.host", "127.0.0.1"},
		{"spark.local.dir", dir},
		{"spark.sql.warehouse.dir", dir},
		{"spark.sql.shuffle.partitions", "2"},
		{"spark.ui.enabled", "false"},
		{"spark.ui.showConsoleProgress", "false"},
	} {
		args = append(args, "--conf", fmt.Sprintf("'%s=%s'", conf[0], conf[1]))
	}
	return strings.Join(append(args, "pyspark-shell"), " ")
}

// last is the last line, whole, that the notebook has printed until now.
func (j *job) last() line {
	j.t.Helper()
	var l line
	text := j.Stdout()
	end := strings.LastIndexByte(text, '\n')
	if end < 0 {
		return l
	}
	text = text[:end]
	if err := json.Unmarshal([]byte(text[strings.LastIndexByte(text, '\n')+1:]), &l); err != nil {
		j.t.Fatalf("the notebook printed %q: %v", text, err)
	}
	return l
}

// awaitRead waits until the job has read so many records.
func (j *job) awaitRead(records int) {
	j.t.Helper()
	begin := time.Now()
	rig.Until(j.t, readWithin, fmt.Sprintf("the job has read %d records", records), func() bool {
		alive := j.Alive() // before it may say its last word
		if j.last().Read >= records {
			return true
		}
		if !alive {
			j.t.Fatalf("the job has ended with code %d", j.Exit(time.Second))
		}
		return false
	})
	j.t.Logf("the job has read %d records, after %s", j.last().Read, time.Since(begin).Round(100*time.Millisecond))
}

// result waits for the end: what is in the sink.
func (j *job) result() line {
	j.t.Helper()
	if code := j.Exit(readWithin + countWithin); code != 0 {
		j.t.Fatalf("the job has ended with code %d", code)
	}
	return j.last()
}
