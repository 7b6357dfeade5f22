package lab

import "time"

// Quiet waits until the machine does next to nothing, as the kernel still works
// after a lab has been closed; or until it takes too long, because somebody else
// is at work here.
func Quiet(most time.Duration) error {
	const look = 40 * time.Millisecond
	return until(most, look, func(before *time.Duration) (bool, error) {
		now, err := Busy()
		quiet := now-*before <= look/4
		*before = now
		return quiet, err
	})
}

// Steady waits until the memory of the kernel's objects changes no more.
func Steady(most time.Duration) error {
	return until(most, 250*time.Millisecond, func(before *int64) (bool, error) {
		now, err := Slab()
		change := max(now-*before, *before-now)
		*before = now
		return change < 64<<10, err
	})
}

// until asks done every now and then, which compares with what it found before.
func until[T any](most, every time.Duration, done func(before *T) (bool, error)) error {
	var before T
	for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(every) {
		if ok, err := done(&before); ok || err != nil {
			return err
		}
	}
	return nil
}
