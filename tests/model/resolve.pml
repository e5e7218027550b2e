/* How some processes resolve one key: the protocol of ajit/_core/plan.py, told once more, for spin.

It is written apart from the plan and from the enumeration in tests/core, so that a mistake in one
of them is not in the other. A process is one proctype whose loop takes any step that is possible
now, as its threads do: its plan, and the helper thread that waits for the lock. Reading, publishing
and each lock call are atomic, as the file system and the kernel make them.

The helper first waits for a shared lock, which all helpers have at once when the holder is gone,
takes a look at the entry under it and gives it back; only a helper that found nothing goes on to the
exclusive one, which is the lease.

Beat and patience are told as what they come to. A holder that compiles beats; a waiter counts, by
its own clock, how often it looked and heard nothing. Steps other than a compile are taken to be
shorter than patience, so no process is silent in them.

Against the protocol plays Fate, as long as it is not calm: processes crash, stall or are cancelled
at any step, compiles fail or break off, publishing and recording fail, there are no locks, and the
entry rots or is removed. It may become calm at any time, and then every process must end by
itself: a process that cannot is an invalid end state, and one that never stops is a cycle.

START is the entry at first: NONE, GOOD or BAD. To leave a part out, define one of

    NO_RECHECK  NO_BEAT  NO_PATIENCE  NO_LEASE  NO_RELEASE  NO_STOP_WAITING  NO_RECORD
    TRUST_REJECTED  REPLACE_BLINDLY  NEVER_REPLACE  ONLY_HOLDER_REPLACES
    TRY_AGAIN_AFTER_PATIENCE  KEEP_SHARED

and spin finds what it is for (tests/model/test_model.py).
*/

#ifndef START
#define START NONE
#endif

#ifndef PROCESSES
#define PROCESSES 3
#endif
#define PATIENCE 2      /* looks without a beat; more of them only make more states */
#define FREE 255        /* no process holds the lease */

mtype:entry_t = { NONE, GOOD, BAD };
mtype:state_t = { LOOKING, LEASING, WAITING, RECHECKING, COMPILING, CONFIRMING, PUBLISHING,
                  RECORDING, RELEASING, DONE, FAILED };
/* Of a wait: waits for the shared lock, has it, waits for the exclusive one, has it. */
mtype:helper_t = { NO_HELPER, ON_ITS_WAY, SHARING, QUEUED, WON };

mtype:entry_t entry = START;
bool failed;            /* there is a failure record */
byte lock = FREE;       /* who holds it exclusively */
byte sharing;           /* a bit for each process that holds it shared */

mtype:state_t state[PROCESSES] = LOOKING;
byte stalled;           /* a bit for each process that is */

bool calm;
bool excused;           /* Fate did what may cost a second compile */
bool disturbed;         /* Fate did anything at all */
bool spoiled;           /* Fate did what may leave no good entry */
byte compiles;          /* begun, before the first excuse */
byte finished;          /* processes of which nothing more is expected */

#define ENDED(p) (state[p] == DONE || state[p] == FAILED)
#ifdef NO_BEAT
#define BEATS(p) false
#else
#define BEATS(p) (state[p] == COMPILING)
#endif
#define BIT(p) (1 << p)
#define SILENT(p) ((stalled & BIT(p)) || (state[p] == COMPILING && !BEATS(p)))
#define HOLDER_IS_SILENT ((lock != FREE && lock != me && SILENT(lock)) || (sharing & stalled))
#define MAY_SHARE (lock == FREE)
#define MAY_TAKE (lock == FREE && !(sharing & ~BIT(me)))
#ifdef NO_PATIENCE
#define PATIENCE_HAS_ENDED false
#else
/* It ends by a look that finds neither a beat nor an entry nor a failure. */
#define PATIENCE_HAS_ENDED (silence == PATIENCE && HOLDER_IS_SILENT && entry != GOOD && !failed)
#endif
#define NO_LOCKS (!calm && (helper == ON_ITS_WAY || helper == QUEUED))
#define WAIT_CAN_END (helper == WON || entry == GOOD || failed || PATIENCE_HAS_ENDED || NO_LOCKS)

/* --- what a step consists of ---------------------------------------------------------------- */

inline excuse() {
    disturbed = true;
    excused = true;
    compiles = 0
}

inline return_from_disk() {
    assert(verified);
    result = DONE
}

inline return_compiled() {
    assert(compiled);
    result = DONE
}

/* After a result is known: the lease is released, and the process ends. */
inline end() {
    if
    :: leased -> state[me] = RELEASING
    :: else -> state[me] = result
    fi
}

inline start_compile() {
    state[me] = COMPILING;
    if
    :: excused
    :: else ->
        compiles++;
        assert(compiles <= 1)       /* a key is compiled once, unless there is an excuse */
    fi
}

/* Should the helper win all the same, now or later, it gives the lock back. */
inline stop_waiting() {
#ifdef NO_STOP_WAITING
    skip
#else
    wanted = false
#endif
}

/* What a helper sees while it shares the lock is delivered, and ends the wait. */
inline look_together() {
    sharing = sharing & ~BIT(me);
    if
    :: !wanted -> helper = NO_HELPER
    :: wanted && state[me] == WAITING && entry == GOOD ->
        helper = NO_HELPER;
        wanted = false;
        verified = true;
        return_from_disk();
        end()
    :: wanted && state[me] == WAITING && entry != GOOD && failed ->
        helper = NO_HELPER;
        wanted = false;
        result = FAILED;
        end()
    :: else ->
        helper = QUEUED;
#ifdef KEEP_SHARED
        sharing = sharing | BIT(me)
#endif
    fi
}

/* The entry, and where there is no good one, the failure record. */
inline look() {
    rejected = (entry == BAD);
    verified = (entry == GOOD);
    if
    :: entry == GOOD -> return_from_disk(); end()
#ifdef TRUST_REJECTED
    :: entry == BAD -> return_from_disk(); end()
#endif
    :: entry != GOOD && failed -> result = FAILED; end()
    :: entry != GOOD && !failed && state[me] == LOOKING -> state[me] = LEASING
    :: entry != GOOD && !failed && state[me] == RECHECKING -> start_compile()
    fi
}

inline take_lease() {
    leased = true;
#ifdef NO_RECHECK
    start_compile()
#else
    state[me] = RECHECKING
#endif
}

inline try_lease() {
    if
#ifdef NO_LEASE
    :: start_compile()
#else
    :: MAY_TAKE -> lock = me; take_lease()
    :: !MAY_TAKE -> state[me] = WAITING; helper = ON_ITS_WAY; wanted = true
#endif
    :: !calm -> excuse(); start_compile()               /* there are no locks */
    fi
}

/* One end of a wait that is possible now. */
inline end_wait() {
    if
    :: helper == WON -> helper = NO_HELPER; wanted = false; take_lease()
    :: entry == GOOD -> stop_waiting(); verified = true; return_from_disk(); end()
    :: entry != GOOD && failed -> stop_waiting(); result = FAILED; end()
#ifdef TRY_AGAIN_AFTER_PATIENCE
    :: PATIENCE_HAS_ENDED -> helper = NO_HELPER; wanted = false; state[me] = LEASING
#else
    :: PATIENCE_HAS_ENDED -> stop_waiting(); start_compile()
#endif
    :: NO_LOCKS -> excuse(); helper = NO_HELPER; wanted = false; start_compile()
    fi
}

inline end_compile() {
    if
    :: compiled = true;
        if
#if defined(NEVER_REPLACE) || defined(REPLACE_BLINDLY)
        :: state[me] = PUBLISHING
#elif defined(ONLY_HOLDER_REPLACES)
        :: rejected && leased -> state[me] = CONFIRMING
        :: else -> state[me] = PUBLISHING
#else
        :: rejected -> state[me] = CONFIRMING
        :: else -> state[me] = PUBLISHING
#endif
        fi
    :: !calm -> disturbed = true; state[me] = RECORDING         /* the source is rejected */
    :: !calm -> excuse(); result = FAILED; end()                /* the compiler was killed */
    fi
}

/* Right before an entry is replaced; the rename is another step, and others may come between. */
inline confirm() {
    if
    :: entry == GOOD -> return_compiled(); end()
    :: entry == NONE -> state[me] = PUBLISHING
    :: entry == BAD -> confirmed = true; replacing = true; state[me] = PUBLISHING
    fi
}

inline publish() {
    assert(compiled);
#ifdef REPLACE_BLINDLY
    replacing = rejected;
#endif
    if
    :: replacing ->
        /* A good entry is replaced only after a look that found a bad one, by a good one, and
           only if a process had no lease. */
        assert(entry != GOOD || (confirmed && excused));
        entry = GOOD
    :: !replacing && entry == NONE -> entry = GOOD
    :: !replacing && entry != NONE                              /* create-only: it stays */
    :: !calm -> excuse(); spoiled = true                        /* the disk is full */
    fi;
    assert(entry == GOOD || spoiled);   /* a process with a kernel keeps it in the cache, unless Fate interfered */
    return_compiled();
    end()
}

inline record_failure() {
#ifndef NO_RECORD
    if
    :: failed = true
    :: !calm -> excuse()
    fi;
#endif
    result = FAILED;
    end()
}

inline release() {
#ifndef NO_RELEASE
    lock = FREE;
#endif
    leased = false;
    state[me] = result
}

inline cancel() {
    excuse();
    if
    :: state[me] == WAITING -> stop_waiting()
    :: else
    fi;
    result = FAILED;
    end()
}

/* What local variables say counts no more: fewer states. */
inline forget() {
    result = FAILED;
    silence = 0;
    leased = false;
    rejected = false;
    verified = false;
    compiled = false;
    confirmed = false;
    replacing = false
}

inline crash() {
    excuse();
    forget();
    if
    :: lock == me -> lock = FREE                                /* the kernel gives it back */
    :: else
    fi;
    sharing = sharing & ~BIT(me);
    state[me] = FAILED;
    helper = NO_HELPER;
    wanted = false
}

/* Blocked in the kernel where the lock is not to be had; a wait there cannot be called off. */
#define HELPER_STEPS \
    :: d_step { helper == ON_ITS_WAY && MAY_SHARE -> \
        sharing = sharing | BIT(me); helper = SHARING } \
    :: d_step { helper == QUEUED && MAY_TAKE -> lock = me; helper = WON } \
    :: d_step { helper == WON && !wanted -> lock = FREE; helper = NO_HELPER }

/* --- processes ------------------------------------------------------------------------------ */

active [PROCESSES] proctype Process() {
    byte me = _pid;
    mtype:helper_t helper = NO_HELPER;
    mtype:state_t result = FAILED;
    byte silence;                       /* looks at the holder without a new beat */
    bool wanted;                        /* whether anybody waits for what the helper waits for */
    bool leased, rejected, verified, compiled, confirmed, replacing;

    do
    /* the plan */
    :: atomic { state[me] == LOOKING || state[me] == RECHECKING -> look() }
    :: atomic { state[me] == LEASING -> try_lease() }
    :: atomic { state[me] == WAITING && WAIT_CAN_END -> end_wait() }
    :: atomic { state[me] == COMPILING -> end_compile() }
    :: atomic { state[me] == CONFIRMING -> confirm() }
    :: atomic { state[me] == PUBLISHING -> publish() }
    :: atomic { state[me] == RECORDING -> record_failure() }
    :: atomic { state[me] == RELEASING -> release() }
    :: d_step { ENDED(me) -> forget(); finished++ } -> break

    /* a look at the holder */
    :: d_step { state[me] == WAITING && silence < PATIENCE && HOLDER_IS_SILENT -> silence++ }
    :: d_step { state[me] == WAITING && silence > 0 && !HOLDER_IS_SILENT -> silence = 0 }

    HELPER_STEPS
    :: atomic { helper == SHARING -> look_together() }

    /* Fate */
    :: atomic { !calm && !ENDED(me) && state[me] != RELEASING -> cancel() }
    :: atomic { !calm && !ENDED(me) -> crash(); finished++ } -> break
    :: d_step { !calm && !ENDED(me) ->
        excuse(); forget(); stalled = stalled | BIT(me); finished++ } -> goto end_stalled
    od;

    /* The plan has ended and the process lives on, as a server does; only the helper may still be
       on its way, and it may be for as long as another process keeps the lock. */
end_left:
    do
    :: d_step { helper == NO_HELPER || (helper == WON && wanted) ->
        assert(lock != me) } -> break       /* no process ends and keeps the lease */
    HELPER_STEPS
    :: d_step { helper == SHARING -> sharing = sharing & ~BIT(me); helper = NO_HELPER }
    :: atomic { !calm -> crash(); break }
    od;
    goto end_of_process;

end_stalled:                                /* stopped, with all that it holds */
    false;

end_of_process:
    skip
}

/* What happens to the entry, and when Fate has done enough. */
active proctype Fate() {
    do
    :: d_step { entry == GOOD -> excuse(); spoiled = true; entry = NONE }
    :: d_step { entry == GOOD -> excuse(); spoiled = true; entry = BAD }
    :: d_step { failed -> excuse(); failed = false }            /* the record is too old */
    :: calm = true -> break
    od
}

/* How every process ends if nothing disturbs it. */
active proctype Witness() {
end_watching:
    d_step {
        finished == PROCESSES && !disturbed ->
        assert(entry == GOOD);
        assert(compiles == (START == GOOD -> 0 : 1))
    }
}
