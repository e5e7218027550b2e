/* How some processes resolve one key: the protocol of ajit/_core/plan.py, told once more, for spin.

It is written apart from the plan and from the enumeration in tests/core, so that a mistake in one
of them is not in the other. A process is one proctype whose loop takes any step that is possible
now, as its threads do: its plan, and the helper thread that waits for the lock. Reading, publishing
and each lock call are atomic, as the file system and the kernel make them.

With TWO_WINNERS, linking a name that another has just linked may succeed, as it does between two
mounts of some network file systems.

The helper first waits for a shared lock, which all helpers have at once when the holder is gone,
takes a look at the entry under it and gives it back; only a helper that found nothing goes on to the
exclusive one, which is the lease.

They want one base key. What they compile includes a header, which can say 0 or 1, and an entry's key
is made of what it says. A look first finds out what it says and whether a reading list leads to an
entry of that, and reads the entry in a second step. A compiler reads the header at one moment, and
what it read is digested when it has ended; a write in between shows. Publishing is two steps: the
entry, then the list. As long as the header cannot be edited any more, what depends on it alone is
done at once. A look of a waiter is one step.

Beat and patience are told as what they come to. A holder that compiles beats; a waiter counts, by
its own clock, how often it looked and heard nothing. Steps other than a compile are taken to be
shorter than patience, so no process is silent in them.

Against the protocol plays Fate, as long as it is not calm: processes crash, stall or are cancelled
at any step, compiles fail or break off, publishing and recording fail, there are no locks, and the
entry rots or is removed, and up to EDITS times the header is edited. It may become calm at any time, and then every process must end by
itself: a process that cannot is an invalid end state, and one that never stops is a cycle.

START is the entry at first: NONE, GOOD or BAD; with ORPHAN, its list is not there. With LISTS_GO
lists may be removed. To leave a part out, define one of

    NO_RECHECK  NO_BEAT  NO_PATIENCE  NO_LEASE  NO_RELEASE  NO_STOP_WAITING  NO_RECORD
    TRUST_REJECTED  REPLACE_BLINDLY  NEVER_REPLACE  ONLY_HOLDER_REPLACES
    TRY_AGAIN_AFTER_PATIENCE  KEEP_SHARED
    PUBLISH_CHANGED  DIGEST_BEFORE  COMPARE_DIGESTS  ANY_ENTRY  BELIEVE_ALWAYS  RECORD_CHANGED
    NO_LIST  NO_LIST_IF_THERE  NO_LIST_IF_CONFIRMED

and spin finds what it is for (tests/model/test_model.py).
*/

#ifndef START
#define START NONE
#endif

#ifndef PROCESSES
#define PROCESSES 3
#endif
#ifndef EDITS
#define EDITS 0
#endif
#ifdef ORPHAN
#define LISTED false
#else
#define LISTED (START != NONE)
#endif
#define PATIENCE 2      /* looks without a beat; more of them only make more states */
#define FREE 255        /* no process holds the lease */

mtype:entry_t = { NONE, GOOD, BAD };
mtype:state_t = { LOOKING, LEASING, WAITING, RECHECKING, COMPILING, CONFIRMING, PUBLISHING,
                  LISTING, RECORDING, RELEASING, DONE, FAILED };
/* Of a wait: waits for the shared lock, has it, waits for the exclusive one, has it. */
mtype:helper_t = { NO_HELPER, ON_ITS_WAY, SHARING, QUEUED, WON };

bit header;             /* what it says */
byte edits = EDITS;     /* how many times it may still be edited */

/* By what the header says in their keys. */
mtype:entry_t entry[2] = NONE;
bit made[2];            /* what it said when the entry was compiled */
bool listed[2];         /* a reading list leads to the entry */

bool failed;            /* there is a failure record */
bit failed_with;        /* what the header said when that was compiled */
bit failed_of;          /* what it says by the record */
byte lock = FREE;       /* who holds it exclusively */
byte sharing;           /* a bit for each process that holds it shared */

mtype:state_t state[PROCESSES] = LOOKING;
byte stalled;           /* a bit for each process that is */

bool calm;
bool excused;           /* Fate did what may cost a second compile */
bool disturbed;         /* Fate did anything at all */
bool spoiled;           /* Fate did what may leave no good entry */
byte compiles[2];       /* that had a result for all, by key, before the first excuse */

/* Of each process a bit. */
byte looking;           /* it is between the two steps of a look */
byte saw[2];            /* the header has said this since its look began */
byte reading;           /* its compiler has read the header */
byte changed;           /* and it was written since then */
byte edited;            /* the header was edited since its look began */
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
#define PATIENCE_HAS_ENDED (silence == PATIENCE && HOLDER_IS_SILENT && !IS_THERE && !HAS_FAILED)
#endif
#define IS_THERE (listed[header] && entry[header] == GOOD)
#ifdef BELIEVE_ALWAYS
#define HAS_FAILED failed
#else
#define HAS_FAILED (failed && failed_of == header)
#endif
#ifdef COMPARE_DIGESTS
#define SURE (key == header)
#elif defined(PUBLISH_CHANGED)
#define SURE true
#else
#define SURE !(changed & BIT(me))
#endif
#ifdef RECORD_CHANGED
#define SURE_OF_FAILURE true
#else
#define SURE_OF_FAILURE !(changed & BIT(me))
#endif
#define NO_LOCKS (!calm && (helper == ON_ITS_WAY || helper == QUEUED))
#define LOOKS (state[me] == LOOKING || state[me] == RECHECKING)
#define WAIT_CAN_END (helper == WON || IS_THERE || HAS_FAILED || PATIENCE_HAS_ENDED || NO_LOCKS)

/* --- what a step consists of ---------------------------------------------------------------- */

inline excuse() {
    disturbed = true;
    excused = true;
    compiles[0] = 0;
    compiles[1] = 0
}

/* What comes from the disk was compiled from what the header has said during the look. */
inline take_entry(says) {
    assert(made[says] == header || (saw[made[says]] & BIT(me)));
    verified = true
}

inline take_failure() {
    assert(failed_with == header || (saw[failed_with] & BIT(me)));
    result = FAILED
}

inline return_from_disk() {
    assert(verified);
    result = DONE
}

/* A kernel for all is in the cache, unless Fate interfered. */
inline return_compiled() {
    assert(compiled);
    assert((entry[key] == GOOD && listed[key]) || spoiled);
    result = DONE
}

/* After a result is known: the lease is released, and the process ends. */
inline end() {
    if
    :: leased -> state[me] = RELEASING
    :: else -> state[me] = result
    fi
}

inline read_header() {
    read = header;
    reading = reading | BIT(me)
}

inline start_compile() {
    state[me] = COMPILING;
#if defined(DIGEST_BEFORE) || defined(COMPARE_DIGESTS)
    key = header;
#endif
#if EDITS == 0
    read_header()
#else
    read = 0                            /* not yet */
#endif
}

/* A compile came to a result for all. An edit since its look excuses it, and no other. */
inline settle() {
    if
    :: excused || (edited & BIT(me))
    :: else ->
        compiles[key]++;
        assert(compiles[key] <= 1)      /* a key is compiled once, unless there is an excuse */
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
    :: wanted && state[me] == WAITING && IS_THERE ->
        helper = NO_HELPER;
        wanted = false;
        take_entry(header);
        return_from_disk();
        end()
    :: wanted && state[me] == WAITING && !IS_THERE && HAS_FAILED ->
        helper = NO_HELPER;
        wanted = false;
        take_failure();
        end()
    :: else ->
        helper = QUEUED;
#ifdef KEEP_SHARED
        sharing = sharing | BIT(me)
#endif
    fi
}

inline stop_looking() {
    looking = looking & ~BIT(me);
    saw[0] = saw[0] & ~BIT(me);
    saw[1] = saw[1] & ~BIT(me)
}

/* The first step of a look: what the header says, and whether a list leads on from there. */
inline look_up() {
    looked = header;
    leads_on = listed[looked];
    edited = edited & ~BIT(me);
    looking = looking | BIT(me);
    saw[looked] = saw[looked] | BIT(me)
}

/* The second one: the entry, and where there is no good one, the failure record. */
inline look() {
#ifdef ANY_ENTRY
    if
    :: listed[1 - looked] && entry[1 - looked] == GOOD -> looked = 1 - looked; leads_on = true
    :: else
    fi;
#endif
    verified = false;
    if
    :: leads_on && entry[looked] == GOOD -> take_entry(looked); return_from_disk(); end()
#ifdef TRUST_REJECTED
    :: leads_on && entry[looked] == BAD -> return_from_disk(); end()
#endif
    :: !(leads_on && entry[looked] == GOOD) && HAS_FAILED -> take_failure(); end()
    :: !(leads_on && entry[looked] == GOOD) && !HAS_FAILED && state[me] == LOOKING ->
        state[me] = LEASING
    :: !(leads_on && entry[looked] == GOOD) && !HAS_FAILED && state[me] == RECHECKING ->
        start_compile()
    fi;
    stop_looking();
    looked = 0;
    leads_on = false
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
    :: IS_THERE -> stop_waiting(); take_entry(header); return_from_disk(); end()
    :: !IS_THERE && HAS_FAILED -> stop_waiting(); take_failure(); end()
#ifdef TRY_AGAIN_AFTER_PATIENCE
    :: PATIENCE_HAS_ENDED -> helper = NO_HELPER; wanted = false; state[me] = LEASING
#else
    :: PATIENCE_HAS_ENDED -> stop_waiting(); start_compile()
#endif
    :: NO_LOCKS -> excuse(); helper = NO_HELPER; wanted = false; start_compile()
    fi
}

inline end_compile() {
    is_sure = SURE;
    is_sure_of_failure = SURE_OF_FAILURE;
    reading = reading & ~BIT(me);
    changed = changed & ~BIT(me);
#ifndef DIGEST_BEFORE
    key = header;
#endif
    if
    :: is_sure ->
        settle();
        compiled = true;
#if defined(NEVER_REPLACE) || defined(REPLACE_BLINDLY)
        state[me] = PUBLISHING
#elif defined(ONLY_HOLDER_REPLACES)
        if
        :: leased -> state[me] = CONFIRMING
        :: else -> state[me] = PUBLISHING
        fi
#else
        state[me] = CONFIRMING
#endif
    :: is_sure && !calm -> excuse(); keep_to_itself()           /* what it read is not seen */
    :: is_sure_of_failure && !calm ->                           /* the source is rejected */
        disturbed = true;
        settle();
        state[me] = RECORDING
    :: !calm -> excuse(); result = FAILED; end()                /* the compiler was killed */
#if EDITS > 0
    :: !is_sure -> keep_to_itself()
    :: !is_sure_of_failure && !calm -> result = FAILED; end()   /* rejected, but who knows what */
#endif
    fi;
    is_sure = false;
    is_sure_of_failure = false
}

/* It is not certain what it was compiled from. */
inline keep_to_itself() {
    result = DONE;
    end()
}

/* Right before an entry is replaced; the rename is another step, and others may come between. */
inline confirm() {
    if
#ifdef NO_LIST_IF_CONFIRMED
    :: entry[key] == GOOD -> return_compiled(); end()
#else
    :: entry[key] == GOOD -> state[me] = PUBLISHING             /* create-only, for its list */
#endif
    :: entry[key] == NONE -> state[me] = PUBLISHING
    :: entry[key] == BAD -> confirmed = true; replacing = true; state[me] = PUBLISHING
    fi
}

inline put_entry() {
    entry[key] = GOOD;
    made[key] = read;
    state[me] = LISTING
}

inline publish() {
    assert(compiled);
#ifdef REPLACE_BLINDLY
    replacing = true;
#endif
    if
    :: replacing ->
        /* A good entry is replaced only after a look that found a bad one, by a good one, and
           only if a process had no lease. */
        assert(entry[key] != GOOD || (confirmed && excused));
        put_entry()
    :: !replacing && entry[key] == NONE -> put_entry()
#ifdef TWO_WINNERS
    /* On another node the name is not seen yet: link succeeds, one file takes the other's place. */
    :: !replacing && entry[key] != NONE -> put_entry()
#endif
    :: !replacing && entry[key] != NONE ->                      /* create-only: it stays */
#ifdef NO_LIST_IF_THERE
        return_compiled();
        end()
#else
        state[me] = LISTING
#endif
    :: !calm -> excuse(); spoiled = true; return_compiled(); end()      /* the disk is full */
    fi
}

inline put_list() {
#ifndef NO_LIST
    if
    :: listed[key] = true
    :: !calm && !listed[key] -> excuse(); spoiled = true
    fi;
#endif
    return_compiled();
    end()
}

inline record_failure() {
#ifndef NO_RECORD
#if EDITS > 0
    if
    :: failed && failed_of != key -> excuse()   /* there is one record: that of another key is lost */
    :: else
    fi;
#endif
    if
    :: failed = true; failed_with = read; failed_of = key
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
    stop_looking();
    reading = reading & ~BIT(me);
    result = FAILED;
    end()
}

/* What local variables say counts no more: fewer states. */
inline forget() {
    result = FAILED;
    silence = 0;
    leased = false;
    verified = false;
    compiled = false;
    confirmed = false;
    replacing = false;
    looked = 0;
    leads_on = false;
    read = 0;
    key = 0;
    stop_looking();
    reading = reading & ~BIT(me);
    changed = changed & ~BIT(me);
    edited = edited & ~BIT(me)
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

proctype Process(byte me) {
    mtype:helper_t helper = NO_HELPER;
    mtype:state_t result = FAILED;
    byte silence;                       /* looks at the holder without a new beat */
    bool wanted;                        /* whether anybody waits for what the helper waits for */
    bool leased, verified, compiled, confirmed, replacing;
    bool leads_on, is_sure, is_sure_of_failure;
    bit looked;                         /* what the header said in the look that is under way */
    bit read;                           /* what it said when the compiler read it */
    bit key;                            /* what it says in the key of what was compiled */

    do
    /* the plan */
#if EDITS > 0
    :: atomic { LOOKS && !(looking & BIT(me)) -> look_up() }
    :: atomic { LOOKS && (looking & BIT(me)) -> look() }
    :: atomic { state[me] == COMPILING && !(reading & BIT(me)) -> read_header() }
#else
    :: atomic { LOOKS -> look_up(); look() }
#endif
    :: atomic { state[me] == LEASING -> try_lease() }
    :: atomic { state[me] == WAITING && WAIT_CAN_END -> end_wait() }
    :: atomic { state[me] == COMPILING && (reading & BIT(me)) -> end_compile() }
    :: atomic { state[me] == CONFIRMING -> confirm() }
    :: atomic { state[me] == PUBLISHING -> publish() }
    :: atomic { state[me] == LISTING -> put_list() }
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

/* What happens to the header and to the cache, and when Fate has done enough. */
proctype Fate() {
    do
    :: d_step { entry[0] == GOOD -> excuse(); spoiled = true; entry[0] = NONE }
    :: d_step { entry[0] == GOOD -> excuse(); spoiled = true; entry[0] = BAD }
#ifdef LISTS_GO
    :: d_step { listed[0] -> excuse(); spoiled = true; listed[0] = false }
#endif
#if EDITS > 0
    :: d_step { entry[1] == GOOD -> excuse(); spoiled = true; entry[1] = NONE }
    :: d_step { entry[1] == GOOD -> excuse(); spoiled = true; entry[1] = BAD }
#ifdef LISTS_GO
    :: d_step { listed[1] -> excuse(); spoiled = true; listed[1] = false }
#endif
    :: d_step { edits > 0 ->
        disturbed = true;
        edits--;
        header = 1 - header;
        saw[header] = saw[header] | looking;
        changed = changed | reading;
        edited = (1 << PROCESSES) - 1 }
#endif
    :: d_step { failed -> excuse(); failed = false }            /* the record is too old */
    :: calm = true -> break
    od
}

/* How every process ends if nothing disturbs it. */
proctype Witness() {
end_watching:
    d_step {
        finished == PROCESSES && !disturbed ->
        assert(entry[0] == GOOD && listed[0]);
        assert(compiles[0] == (LISTED && START == GOOD -> 0 : 1))
    }
}

init {
    byte number;
    atomic {
        entry[0] = START;
        listed[0] = LISTED;
        do
        :: number < PROCESSES -> run Process(number); number++
        :: number == PROCESSES -> break
        od;
        number = 0;
        run Fate();
        run Witness()
    }
}
