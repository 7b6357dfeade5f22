package rig

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Java programs are these, of Java 17.
const (
	javaPackage  = "openjdk-17-jdk-headless"
	mavenPackage = "maven"
)

// slf4j is the logger that goes with every set of jars: to stderr, and quiet
// (see JavaArgs).
const slf4j = "org.slf4j:slf4j-simple:1.7.36"

// Jars is a class path of artifacts of Maven Central, "GROUP:ARTIFACT:VERSION",
// and all that they need at run time. It downloads them once for a machine; call
// it before Isolate.
func Jars(t testing.TB, artifacts ...string) string {
	t.Helper()
	return jars(t, "jars", append(artifacts, slf4j), "")
}

// JarsAlone is Jars without what the artifacts need: for a program that has that
// already.
func JarsAlone(t testing.TB, artifacts ...string) string {
	t.Helper()
	return jars(t, "jars-alone", artifacts, "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>")
}

// jars has exclusions, in a pom.xml's words, with each artifact.
func jars(t testing.TB, kind string, artifacts []string, exclusions string) string {
	t.Helper()
	dir := cached(t, kind, artifacts, func(dir string) error {
		pom, err := projectOf(artifacts, exclusions)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "pom.xml"), []byte(pom), 0o644); err != nil {
			return err
		}
		return download(dir, Need(t, "mvn", mavenPackage), "-B", "-q", "dependency:copy-dependencies",
			"-DincludeScope=runtime", "-DoutputDirectory="+dir)
	})
	return filepath.Join(dir, "*")
}

// projectOf is a pom.xml.
func projectOf(artifacts []string, exclusions string) (string, error) {
	var b strings.Builder
	b.WriteString(`<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>` +
		"\n<groupId>midspan</groupId><artifactId>e2e</artifactId><version>1</version>\n<dependencies>\n")
	for _, a := range artifacts {
		part := strings.Split(a, ":")
		if len(part) != 3 {
			return "", fmt.Errorf("%q is not GROUP:ARTIFACT:VERSION", a)
		}
		fmt.Fprintf(&b, "<dependency><groupId>%s</groupId><artifactId>%s</artifactId><version>%s</version>%s</dependency>\n",
			part[0], part[1], part[2], exclusions)
	}
	b.WriteString("</dependencies></project>\n")
	return b.String(), nil
}

// JavaProgram compiles a Java source file against a class path and returns the
// class path that has both. Its class is called as the file is.
func JavaProgram(t testing.TB, source, classpath string) string {
	t.Helper()
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	dir := cached(t, "classes", []string{source, classpath, string(text)}, func(dir string) error {
		return command("", Need(t, "javac", javaPackage), "-nowarn", "-cp", classpath, "-d", dir, source)
	})
	return dir + ":" + classpath
}

// JavaArgs are java's arguments for a class that may use so much memory: the
// start is quick, which counts for more here than what comes later, and only
// warnings are written.
func JavaArgs(classpath, heap, class string, args ...string) []string {
	return append([]string{
		"-cp", classpath, "-Xmx" + heap, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
		"-Djava.net.preferIPv4Stack=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
		"-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS", class,
	}, args...)
}

// Java is the path of java.
func Java(t testing.TB) string {
	t.Helper()
	return Need(t, "java", javaPackage)
}

// command runs a program to its end.
func command(dir, program string, args ...string) error {
	return commandWithin(10*time.Minute, dir, program, args...)
}

func commandWithin(limit time.Duration, dir, program string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.WaitDelay = Patience // for what it has started, and what holds its output
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("not within %s: %w", limit, err)
		}
		return fmt.Errorf("%s: %w: %s", filepath.Base(program), err, strings.TrimSpace(string(out)))
	}
	return nil
}
