;; A WASI (preview 1) with nothing behind it.
;;
;; A policy imports nothing but gavel:policy. The runtimes of Go and of C's libc are made for WASI and import
;; `wasi_snapshot_preview1`; this module answers in its place, inside the component, so that the component imports no
;; WASI. `gavel policy componentize` links it in, and only the functions that are used.
;;
;; What always holds: every answer depends on the calls made before in the same instance and on nothing else, so a
;; decision judged again comes out the same.
;;   - The wall clock stands still at 1970-01-01. The time of a request is in the request.
;;   - The monotonic clock goes on by one microsecond at each reading (Go refuses a clock at 0), and a sleep ends at once
;;     with the clock set on by its length.
;;   - Random bytes are the same stream in every instance: good for a hash table's seed, no good for a secret.
;;   - There are no arguments, no environment, no files and no sockets.
;;   - What is written to standard output and error becomes lines of the policy's log, at level info and error.
;;   - An exit is a trap, so it denies.
;;
;; Shape: wit-component demands of an adapter that it has no data segments and no memory of its own, and that it imports
;; the policy's memory as `env` `memory`. So there is no buffer: each piece of text that is written becomes one line.
(module
  (import "gavel:policy/log@0.1.0" "write" (func $log (param $level i32) (param $text i32) (param $length i32)))
  (import "env" "memory" (memory 0))

  ;; Errors of WASI: 0 success, 8 EBADF, 28 EINVAL, 52 ENOSYS.
  (global $monotonic_ns (mut i64) (i64.const 0))
  (global $random_state (mut i64) (i64.const 0x9e3779b97f4a7c15))

  ;; --- clocks, randomness, the scheduler ---

  ;; Clocks: 0 real time, 1 monotonic, 2 and 3 CPU time.
  (func (export "clock_time_get") (param $clock i32) (param $precision i64) (param $out i32) (result i32)
    (i64.store (local.get $out)
      (if (result i64) (local.get $clock) (then (call $tick)) (else (i64.const 0))))
    (i32.const 0))

  (func (export "clock_res_get") (param $clock i32) (param $out i32) (result i32)
    (i64.store (local.get $out) (i64.const 1000))
    (i32.const 0))

  (func $tick (result i64)
    (global.set $monotonic_ns (i64.add (global.get $monotonic_ns) (i64.const 1000)))
    (global.get $monotonic_ns))

  ;; xorshift64*, eight bits of each step.
  (func (export "random_get") (param $out i32) (param $length i32) (result i32)
    (local $end i32) (local $x i64)
    (local.set $end (i32.add (local.get $out) (local.get $length)))
    (local.set $x (global.get $random_state))
    (block $full
      (loop $byte
        (br_if $full (i32.eq (local.get $out) (local.get $end)))
        (local.set $x (i64.xor (local.get $x) (i64.shr_u (local.get $x) (i64.const 12))))
        (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 25))))
        (local.set $x (i64.xor (local.get $x) (i64.shr_u (local.get $x) (i64.const 27))))
        (i64.store8 (local.get $out)
          (i64.shr_u (i64.mul (local.get $x) (i64.const 0x2545f4914f6cdd1d)) (i64.const 56)))
        (local.set $out (i32.add (local.get $out) (i32.const 1)))
        (br $byte)))
    (global.set $random_state (local.get $x))
    (i32.const 0))

  ;; Everything that is waited for has happened: a time because the clock is set on to it, a file because it is no file.
  ;; A subscription has 48 bytes: user data u64 at 0, kind u8 at 8 (0 = clock), clock's timeout u64 at 24 and flags u16
  ;; at 40 (1 = absolute). An event has 32: user data u64 at 0, error u16 at 8, kind u8 at 10, the rest of files.
  (func (export "poll_oneoff") (param $in i32) (param $out i32) (param $count i32) (param $events i32) (result i32)
    (local $left i32)
    (if (i32.eqz (local.get $count)) (then (return (i32.const 28))))
    (local.set $left (local.get $count))
    (loop $next
      (i64.store (local.get $out) (i64.load (local.get $in)))
      (i64.store offset=8 (local.get $out) (i64.const 0))
      (i64.store offset=16 (local.get $out) (i64.const 0))
      (i64.store offset=24 (local.get $out) (i64.const 0))
      (i32.store8 offset=10 (local.get $out) (i32.load8_u offset=8 (local.get $in)))
      (if (i32.load8_u offset=8 (local.get $in))
        (then (i32.store16 offset=8 (local.get $out) (i32.const 8)))
        (else (call $sleep (i64.load offset=24 (local.get $in)) (i32.load16_u offset=40 (local.get $in)))))
      (local.set $in (i32.add (local.get $in) (i32.const 48)))
      (local.set $out (i32.add (local.get $out) (i32.const 32)))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $next (local.get $left)))
    (i32.store (local.get $events) (local.get $count))
    (i32.const 0))

  ;; Set the clock on by $time, or to it; never back.
  (func $sleep (param $time i64) (param $flags i32)
    (local $until i64)
    (local.set $until
      (if (result i64) (i32.and (local.get $flags) (i32.const 1))
        (then (local.get $time))
        (else (i64.add (global.get $monotonic_ns) (local.get $time)))))
    (if (i64.gt_u (local.get $until) (global.get $monotonic_ns))
      (then (global.set $monotonic_ns (local.get $until)))))

  ;; The bindings of Go pause the clock where calls of the host are forbidden. This one never calls it.
  (func (export "adapter_monotonic_clock_set_paused") (param i32))
  (func (export "sched_yield") (result i32) (i32.const 0))
  (func (export "proc_exit") (param i32) (unreachable))
  (func (export "proc_raise") (param i32) (result i32) (unreachable))

  ;; --- no arguments, no environment ---

  (func $nothing (param $count i32) (param $bytes i32) (result i32)
    (i32.store (local.get $count) (i32.const 0))
    (i32.store (local.get $bytes) (i32.const 0))
    (i32.const 0))
  (export "args_sizes_get" (func $nothing))
  (export "environ_sizes_get" (func $nothing))
  (func $success (param i32 i32) (result i32) (i32.const 0))
  (export "args_get" (func $success))
  (export "environ_get" (func $success))

  ;; --- standard input is empty; output and error are the log ---

  (func (export "fd_read") (param $fd i32) (param $pieces i32) (param $count i32) (param $read i32) (result i32)
    (if (local.get $fd) (then (return (i32.const 8))))
    (i32.store (local.get $read) (i32.const 0))
    (i32.const 0))

  ;; $pieces points at $count pairs of address and length.
  (func (export "fd_write") (param $fd i32) (param $pieces i32) (param $count i32) (param $written i32) (result i32)
    (local $total i32)
    (if (i32.gt_u (i32.sub (local.get $fd) (i32.const 1)) (i32.const 1)) (then (return (i32.const 8))))
    (block $done
      (loop $piece
        (br_if $done (i32.eqz (local.get $count)))
        (call $line
          (select (i32.const 1) (i32.const 3) (i32.eq (local.get $fd) (i32.const 1))) ;; level: info or error
          (i32.load (local.get $pieces))
          (i32.load offset=4 (local.get $pieces)))
        (local.set $total (i32.add (local.get $total) (i32.load offset=4 (local.get $pieces))))
        (local.set $pieces (i32.add (local.get $pieces) (i32.const 8)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $piece)))
    (i32.store (local.get $written) (local.get $total))
    (i32.const 0))

  ;; One line of the log, without the line ends that it ends in; none if nothing is left of it.
  (func $line (param $level i32) (param $text i32) (param $length i32)
    (block $trimmed
      (loop $trim
        (br_if $trimmed (i32.eqz (local.get $length)))
        (br_if $trimmed
          (i32.ne (i32.load8_u (i32.sub (i32.add (local.get $text) (local.get $length)) (i32.const 1))) (i32.const 10)))
        (local.set $length (i32.sub (local.get $length) (i32.const 1)))
        (br $trim)))
    (local.set $length (call $valid (local.get $text) (local.get $length)))
    (if (local.get $length) (then (call $log (local.get $level) (local.get $text) (local.get $length)))))

  ;; How many bytes from $text on are UTF-8. Text that is not would be a trap at the border, and bytes written are no
  ;; promise: a writer may cut a character in two.
  (func $valid (param $text i32) (param $length i32) (result i32)
    (local $at i32) (local $size i32)
    (block $stop
      (loop $character
        (br_if $stop (i32.eq (local.get $at) (local.get $length)))
        (local.set $size
          (call $character
            (i32.add (local.get $text) (local.get $at))
            (i32.sub (local.get $length) (local.get $at))))
        (br_if $stop (i32.eqz (local.get $size)))
        (local.set $at (i32.add (local.get $at) (local.get $size)))
        (br $character)))
    (local.get $at))

  ;; The size of the character at $at, of which $left bytes are there; 0 if it is none.
  (func $character (param $at i32) (param $left i32) (result i32)
    (local $first i32) (local $size i32) (local $second i32)
    (local.set $first (i32.load8_u (local.get $at)))
    (if (i32.lt_u (local.get $first) (i32.const 0x80)) (then (return (i32.const 1))))
    (if (i32.or (i32.lt_u (local.get $first) (i32.const 0xc2)) (i32.gt_u (local.get $first) (i32.const 0xf4)))
      (then (return (i32.const 0))))
    (local.set $size
      (i32.add (i32.const 2)
        (i32.add (i32.ge_u (local.get $first) (i32.const 0xe0)) (i32.ge_u (local.get $first) (i32.const 0xf0)))))
    (if (i32.lt_u (local.get $left) (local.get $size)) (then (return (i32.const 0))))
    (local.set $second (i32.load8_u offset=1 (local.get $at)))
    (if (i32.ne (i32.and (local.get $second) (i32.const 0xc0)) (i32.const 0x80)) (then (return (i32.const 0))))
    ;; Too long a form, a surrogate, beyond the last character.
    (if (i32.and (i32.eq (local.get $first) (i32.const 0xe0)) (i32.lt_u (local.get $second) (i32.const 0xa0)))
      (then (return (i32.const 0))))
    (if (i32.and (i32.eq (local.get $first) (i32.const 0xed)) (i32.gt_u (local.get $second) (i32.const 0x9f)))
      (then (return (i32.const 0))))
    (if (i32.and (i32.eq (local.get $first) (i32.const 0xf0)) (i32.lt_u (local.get $second) (i32.const 0x90)))
      (then (return (i32.const 0))))
    (if (i32.and (i32.eq (local.get $first) (i32.const 0xf4)) (i32.gt_u (local.get $second) (i32.const 0x8f)))
      (then (return (i32.const 0))))
    (if (i32.ge_u (local.get $size) (i32.const 3))
      (then
        (if (i32.ne (i32.and (i32.load8_u offset=2 (local.get $at)) (i32.const 0xc0)) (i32.const 0x80))
          (then (return (i32.const 0))))))
    (if (i32.eq (local.get $size) (i32.const 4))
      (then
        (if (i32.ne (i32.and (i32.load8_u offset=3 (local.get $at)) (i32.const 0xc0)) (i32.const 0x80))
          (then (return (i32.const 0))))))
    (local.get $size))

  ;; --- the descriptors 0, 1 and 2 are character devices; there are no others ---

  ;; 24 bytes: kind u8 at 0 (2 = character device), flags u16 at 2, rights u64 at 8 and 16.
  (func (export "fd_fdstat_get") (param $fd i32) (param $out i32) (result i32)
    (if (i32.gt_u (local.get $fd) (i32.const 2)) (then (return (i32.const 8))))
    (i64.store (local.get $out) (i64.const 2))
    (i64.store offset=8 (local.get $out) (i64.const -1))
    (i64.store offset=16 (local.get $out) (i64.const 0))
    (i32.const 0))

  (func $standard (param $fd i32) (result i32)
    (select (i32.const 8) (i32.const 0) (i32.gt_u (local.get $fd) (i32.const 2))))
  (export "fd_close" (func $standard))
  (export "fd_datasync" (func $standard))
  (export "fd_sync" (func $standard))
  (func (export "fd_fdstat_set_flags") (param $fd i32) (param i32) (result i32) (call $standard (local.get $fd)))
  (func (export "fd_fdstat_set_rights") (param $fd i32) (param i64 i64) (result i32) (call $standard (local.get $fd)))

  (func (export "fd_advise") (param i32 i64 i64 i32) (result i32) (i32.const 8))
  (func (export "fd_allocate") (param i32 i64 i64) (result i32) (i32.const 8))
  (func (export "fd_filestat_get") (param i32 i32) (result i32) (i32.const 8))
  (func (export "fd_filestat_set_size") (param i32 i64) (result i32) (i32.const 8))
  (func (export "fd_filestat_set_times") (param i32 i64 i64 i32) (result i32) (i32.const 8))
  (func (export "fd_pread") (param i32 i32 i32 i64 i32) (result i32) (i32.const 8))
  (func (export "fd_prestat_get") (param i32 i32) (result i32) (i32.const 8))
  (func (export "fd_prestat_dir_name") (param i32 i32 i32) (result i32) (i32.const 8))
  (func (export "fd_pwrite") (param i32 i32 i32 i64 i32) (result i32) (i32.const 8))
  (func (export "fd_readdir") (param i32 i32 i32 i64 i32) (result i32) (i32.const 8))
  (func (export "fd_renumber") (param i32 i32) (result i32) (i32.const 8))
  (func (export "fd_seek") (param i32 i64 i32 i32) (result i32) (i32.const 8))
  (func (export "fd_tell") (param i32 i32) (result i32) (i32.const 8))
  (func (export "path_create_directory") (param i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_filestat_get") (param i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_filestat_set_times") (param i32 i32 i32 i32 i64 i64 i32) (result i32) (i32.const 8))
  (func (export "path_link") (param i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_open") (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32) (i32.const 8))
  (func (export "path_readlink") (param i32 i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_remove_directory") (param i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_rename") (param i32 i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_symlink") (param i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_unlink_file") (param i32 i32 i32) (result i32) (i32.const 8))
  (func (export "sock_accept") (param i32 i32 i32) (result i32) (i32.const 8))
  (func (export "sock_recv") (param i32 i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "sock_send") (param i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "sock_shutdown") (param i32 i32) (result i32) (i32.const 8))
)
