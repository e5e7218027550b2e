/* How processes on several mounts hold a lease by claims: ajit/_core/claim.py, told once more, for spin.

It is written apart from the table and from the enumeration in tests/core, so that a mistake in one of
them is not in the other. Claims are numbered and made by mkdir, which is decided where the truth is. A
mount shows what was written on it at once, and of each claim, and of the entry, what was written on
another one up to DELAY ticks late. A lock that lets two processes of one mount pass lies; here all do.

Time goes by in ticks. In each a process that waits looks once, and one that compiles beats once; all
else takes no time. A compile takes, and beats for, up to LONG ticks. A process that does not keep up is
stalled: time goes on without it, and it may go on at any later time.

Two processes that are taken to live must not both hold the lease; without a crash or stall there is
one compile; and all that live are served, or a run would go on without progress for ever.

To leave a part out, define one of

    NO_BEAT  NO_SILENCE  SHORT_SILENCE  NO_SEEK  NO_SETTLE  UNWRITTEN_IS_FREE  KEEP_QUIET
    EXISTS_IS_OURS  TWO_WINNERS  MARK_NEWEST  MAKE_ANEW

and spin finds what it is for (tests/model/test_claim_model.py).
*/

#ifndef PROCESSES
#define PROCESSES 2
#endif
#ifndef MOUNTS
#define MOUNTS 2
#endif
#ifndef FAULTS
#define FAULTS 1
#endif
#define DELAY 1
#define LONG 6
#ifdef SHORT_SILENCE
#define SILENCE 2
#else
#define SILENCE 3
#endif
#ifdef NO_SETTLE
#define SETTLE 0
#else
#define SETTLE 2
#endif
#define CLAIMS 4        /* more than are made: each process makes one at most */
#define BEATS 8         /* they are counted modulo this */
#define OLD 255         /* a beat that no one has */

mtype:mark_t = { NOT_THERE, UNWRITTEN, HELD, LEFT, PUBLISHED };
mtype:state_t = { WATCHING, SEEKING, MAKING, WRITING, LOOKING, COMPILING, PUBLISHING, LEAVING, OVER };
mtype:life_t = { LIVE, STALLED, LATE };

mtype:mark_t mark[CLAIMS] = NOT_THERE;          /* what is so */
byte beat[CLAIMS];
bool entry;

typedef View {                                  /* what a mount shows */
    mtype:mark_t mark[CLAIMS];
    byte beat[CLAIMS];
    byte lag[CLAIMS];
    bool entry;
    byte entry_lag
}
View view[MOUNTS];

mtype:state_t state[PROCESSES] = WATCHING;
mtype:life_t life[PROCESSES] = LIVE;
bool busy[PROCESSES];                           /* it has looked or beaten in this tick */
byte compiling[PROCESSES];                      /* for how many ticks */
byte number[PROCESSES];                         /* of its claim, from 1; 0 for none */
byte known[PROCESSES];                          /* the newest claim that it knows of */
mtype:mark_t known_mark[PROCESSES] = LEFT;
byte known_beat[PROCESSES];
byte quiet[PROCESSES];                          /* ticks without news of that */

byte faults = FAULTS;
byte compiles;

#define MOUNT(p) (p % MOUNTS)
#define HERE view[MOUNT(me)]
#define IN_TIME(p) (life[p] != LIVE || state[p] == OVER || \
    (state[p] == WATCHING && busy[p]) || (state[p] == COMPILING && busy[p] && compiling[p] < LONG))
#define LATE_FACT(c) (view[m].mark[c] != mark[c] || view[m].beat[c] != beat[c])
#define TOO_LATE(m, c) ((view[m].mark[c] != mark[c] || view[m].beat[c] != beat[c]) && \
    view[m].lag[c] >= DELAY)
#define MOUNT_IN_TIME(m) (!TOO_LATE(m, 0) && !TOO_LATE(m, 1) && !TOO_LATE(m, 2) && \
    !TOO_LATE(m, 3) && (view[m].entry == entry || view[m].entry_lag < DELAY))
#define LIVES(p) (life[p] == LIVE && state[p] != OVER)
#if PROCESSES == 2
#define ALL_IN_TIME (IN_TIME(0) && IN_TIME(1))
#define SOME_LIVE (LIVES(0) || LIVES(1))
#else
#define ALL_IN_TIME (IN_TIME(0) && IN_TIME(1) && IN_TIME(2))
#define SOME_LIVE (LIVES(0) || LIVES(1) || LIVES(2))
#endif
#if MOUNTS == 2
#define NO_MOUNT_IS_LATE (MOUNT_IN_TIME(0) && MOUNT_IN_TIME(1))
#else
#define NO_MOUNT_IS_LATE (MOUNT_IN_TIME(0) && MOUNT_IN_TIME(1) && MOUNT_IN_TIME(2))
#endif
#define IS_HOLDER(p) (life[p] == LIVE && number[p] > 0 && state[p] != OVER)

/* --- what a step consists of ---------------------------------------------------------------- */

/* What is written on a mount is shown there at once. */
inline tell(m, c) {
    view[m].mark[c] = mark[c];
    view[m].beat[c] = beat[c];
    view[m].lag[c] = 0
}

inline count_compile() {
    compiles = (compiles < 2 -> compiles + 1 : 2);
    assert(compiles < 2 || faults < FAULTS)     /* one compile, unless there was a fault */
}

inline check_one_holder() {
    other = 0;
    do
    :: other < PROCESSES ->
        assert(other == me || !(IS_HOLDER(me) && IS_HOLDER(other)));
        other++
    :: other == PROCESSES -> break
    od;
    other = 0
}

/* The newest claim that this mount shows; an older one than is known is no news. */
inline look() {
    busy[me] = true;
    seen = CLAIMS;
    do
    :: seen > 0 && HERE.mark[seen - 1] == NOT_THERE -> seen--
    :: else -> break
    od;
    if
    :: seen < known[me] || seen == 0 ->
        quiet[me] = (quiet[me] < SILENCE -> quiet[me] + 1 : quiet[me])
    :: else ->
        if
        :: seen == known[me] && HERE.mark[seen - 1] == known_mark[me] &&
                (known_mark[me] != HELD || HERE.beat[seen - 1] == known_beat[me]) ->
            quiet[me] = (quiet[me] < SILENCE -> quiet[me] + 1 : quiet[me])
        :: else ->
#ifndef KEEP_QUIET
            quiet[me] = 0;
#else
            quiet[me] = (quiet[me] < SILENCE && known[me] -> quiet[me] + 1 : quiet[me]);
#endif
            known[me] = seen;
            known_mark[me] = HERE.mark[seen - 1];
            known_beat[me] = HERE.beat[seen - 1]
        fi
    fi;
    seen = 0;
    if
    :: known[me] == 0 || known_mark[me] == LEFT -> state[me] = MAKING
#ifdef UNWRITTEN_IS_FREE
    :: known[me] > 0 && known_mark[me] == UNWRITTEN -> state[me] = MAKING
#endif
#ifdef NO_SEEK
    :: known[me] > 0 && known_mark[me] == PUBLISHED -> state[me] = MAKING
#else
    :: known[me] > 0 && known_mark[me] == PUBLISHED ->
        state[me] = (quiet[me] >= SETTLE -> MAKING : SEEKING)
#endif
#ifndef NO_SILENCE
    :: known[me] > 0 && known_mark[me] != LEFT && known_mark[me] != PUBLISHED &&
            quiet[me] >= SILENCE -> state[me] = MAKING
#endif
    :: else
    fi
}

inline make(c) {
    mark[c] = UNWRITTEN;
    tell(MOUNT(me), c)
}

/* mkdir of the number after the one that is known. */
inline try_make() {
    seen = known[me];
#ifdef MAKE_ANEW
    if
    :: known[me] > 0 && known_mark[me] != LEFT && known_mark[me] != PUBLISHED ->
        mark[known[me] - 1] = NOT_THERE;        /* renamed away, whatever it is by now */
        tell(MOUNT(me), known[me] - 1);
        known_mark[me] = LEFT;
        known[me] = known[me] - 1;
        seen = CLAIMS                           /* the other step comes later */
    :: else
    fi;
#endif
    if
    :: seen == CLAIMS -> skip
    :: seen < CLAIMS && mark[seen] == NOT_THERE ->
        make(seen);
        number[me] = seen + 1;
        state[me] = WRITING
#ifdef TWO_WINNERS
    :: seen < CLAIMS && mark[seen] == UNWRITTEN -> number[me] = seen + 1; state[me] = WRITING
#endif
    :: seen < CLAIMS && mark[seen] != NOT_THERE ->
#ifdef EXISTS_IS_OURS
        number[me] = seen + 1;
        state[me] = WRITING
#else
        known[me] = seen + 1;
        known_mark[me] = UNWRITTEN;
        quiet[me] = 0;
        state[me] = WATCHING
#endif
    fi;
    seen = 0;
    check_one_holder()
}

/* Only into a claim that is there. A beat that comes round again is new for all who wait. */
inline write(c, what) {
    if
    :: mark[c] == NOT_THERE
    :: else ->
        mark[c] = what;
        beat[c] = (beat[c] + 1) % BEATS;
        tell(MOUNT(me), c);
        other = 0;
        do
        :: other < PROCESSES ->
            known_beat[other] =
                (known[other] == c + 1 && known_beat[other] == beat[c] -> OLD : known_beat[other]);
            other++
        :: other == PROCESSES -> break
        od;
        other = 0
    fi
}

inline leave() {
    seen = number[me];
#ifdef MARK_NEWEST
    do
    :: seen < CLAIMS && mark[seen] != NOT_THERE -> seen++
    :: else -> break
    od;
#endif
    if
    :: has_published -> write(seen - 1, PUBLISHED)
    :: else -> write(seen - 1, LEFT)
    fi;
    seen = 0;
    state[me] = OVER
}

/* What an ended process knows counts no more. */
inline forget() {
    busy[me] = false;
    compiling[me] = 0;
    known[me] = 0;
    known_mark[me] = LEFT;
    known_beat[me] = 0;
    quiet[me] = 0;
    has_published = false
}

/* --- processes ------------------------------------------------------------------------------ */

proctype Process(byte me) {
    byte other, seen;
    bool has_published;

    do
    :: atomic { life[me] != STALLED && state[me] == WATCHING && HERE.entry -> state[me] = OVER }
    :: atomic { life[me] != STALLED && state[me] == WATCHING && !busy[me] -> look() }
    :: atomic { life[me] != STALLED && state[me] == SEEKING ->
        state[me] = (HERE.entry -> OVER : WATCHING) }
    :: atomic { life[me] != STALLED && state[me] == MAKING -> try_make() }
    :: atomic { life[me] != STALLED && state[me] == WRITING ->
        write(number[me] - 1, HELD);
        state[me] = LOOKING }
    :: atomic { life[me] != STALLED && state[me] == LOOKING ->
        busy[me] = true;
        state[me] = (HERE.entry -> LEAVING : COMPILING) }
    :: atomic { life[me] != STALLED && state[me] == COMPILING && !busy[me] && compiling[me] < LONG ->
#ifndef NO_BEAT
        write(number[me] - 1, HELD);
#endif
        busy[me] = true }
    :: atomic { life[me] != STALLED && state[me] == COMPILING ->
        count_compile();
        state[me] = PUBLISHING }
    :: atomic { life[me] != STALLED && state[me] == PUBLISHING ->
        entry = true;                           /* link may have two winners: one good for another */
        HERE.entry = true;
        HERE.entry_lag = 0;
        has_published = true;
        state[me] = LEAVING }
    :: atomic { life[me] != STALLED && state[me] == LEAVING -> leave() }
    :: atomic { state[me] == OVER -> forget(); break }
    :: atomic { faults > 0 && life[me] == LIVE && state[me] != OVER ->      /* crashes */
        faults--;
        state[me] = OVER }
    :: atomic { faults > 0 && life[me] == LIVE && state[me] != OVER ->
        faults--;
        life[me] = STALLED }
    :: atomic { life[me] == STALLED ->                                      /* goes on, maybe */
        life[me] = (number[me] > 0 -> LATE : LIVE) }
    :: atomic { life[me] == STALLED -> goto end_stalled }
    od;
    goto end_of_process;

end_stalled:
    false;

end_of_process:
progress:
    skip
}

/* A mount learns what is so. */
proctype Mount(byte m) {
end_of_news:
    do
    :: atomic { view[m].entry != entry -> view[m].entry = entry; view[m].entry_lag = 0 }
    :: atomic { LATE_FACT(0) -> tell(m, 0) }
    :: atomic { LATE_FACT(1) -> tell(m, 1) }
    :: atomic { LATE_FACT(2) -> tell(m, 2) }
    :: atomic { LATE_FACT(3) -> tell(m, 3) }
    od
}

/* A tick: every process that lives is in time, and no mount is later than DELAY. */
proctype Clock() {
    byte m, c, p;
end_of_time:
    do
    :: atomic {
        ALL_IN_TIME && SOME_LIVE && NO_MOUNT_IS_LATE ->
        p = 0;
        do
        :: p < PROCESSES ->
            compiling[p] =
                (state[p] == COMPILING && compiling[p] < LONG -> compiling[p] + 1 : compiling[p]);
            busy[p] = false;
            p++
        :: p == PROCESSES -> break
        od;
        m = 0;
        do
        :: m < MOUNTS ->
            view[m].entry_lag = (view[m].entry != entry -> view[m].entry_lag + 1 : 0);
            c = 0;
            do
            :: c < CLAIMS -> view[m].lag[c] = (LATE_FACT(c) -> view[m].lag[c] + 1 : 0); c++
            :: c == CLAIMS -> break
            od;
            m++
        :: m == MOUNTS -> break
        od;
        m = 0;
        c = 0;
        p = 0 }
    od
}

init {
    byte n, c;
    atomic {
        do
        :: n < MOUNTS ->
            c = 0;
            do
            :: c < CLAIMS -> view[n].mark[c] = NOT_THERE; c++
            :: c == CLAIMS -> break
            od;
            run Mount(n);
            n++
        :: n == MOUNTS -> break
        od;
        n = 0;
        do
        :: n < PROCESSES -> run Process(n); n++
        :: n == PROCESSES -> break
        od;
        n = 0;
        c = 0;
        run Clock()
    }
}
