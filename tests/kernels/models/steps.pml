/* Steps, stamps and sweeps of the hot table (rules 1 to 4 of DESIGN §5; kernels/steps.h, resolve.h, sweep.h).

   Three actors: 0 and 1 are the main and the forecast stream of one session, 2 is another session. In
   each step an actor resolves one page, uses its slot, and may die at any instruction. A miss that finds no
   free slot sweeps, inside the step, while the others go on. Steps are serial numbers modulo R, and the
   clock starts just below the wrap; it stands still when it is LEAD past the cut of the last complete sweep.

   Checked: an actor never uses a slot whose bytes are not its page's; steps always compare.
   Limits: sequentially consistent (fences are argued in the code and stressed); NP pages, NS slots, STEPS
   steps per actor; one resolve per step. R = 8 leaves 3 steps of room: LEAD + actors - 1.
   Checked exhaustively, no error: 3 actors x 1 step (19 million states), 2 x 2 (0.8 million).
   Seeded bugs: see BUG_ below; each must be found. run_models has the configurations. */
#ifndef NA
#define NA 3
#endif
#ifndef NP
#define NP 2
#endif
#ifndef NS
#define NS 1
#endif
#ifndef STEPS
#define STEPS 1
#endif
#ifndef R
#define R 8
#endif
#define HALF (R / 2)
#define LEAD 1
#define FORWARD(from, to) ((to + R - from) % R)
#define BEFORE(a, b) (a != b && FORWARD(a, b) < HALF)
#define NONE 15
#define IDLE 15
#ifdef BUG_ACTIVE_PER_SESSION
#define LINE(me) (me / 2)        /* both streams of a session publish in one place */
#else
#define LINE(me) me
#endif
#define MAY_DIE if :: goto dead :: skip fi

byte clock = R - 1, swept = R - 1, act[NA] = IDLE;
byte hint[NP] = NONE;
byte w_page[NS] = NONE, w_step[NS]; bit w_ready[NS];   /* one word: examined or changed in one d_step */
byte lo[NS] = NONE, hi[NS] = NONE;                     /* the bytes of a slot, in halves */

inline enter() {
  v = clock;
#ifndef BUG_PUBLISH_LATE
  act[LINE(me)] = v;
#endif
#ifdef BUG_NO_LEAD
  d_step { clock = (clock + 1) % R; v = clock };
#else
  if
  :: FORWARD(swept, clock) < LEAD -> d_step { clock = (clock + 1) % R; v = clock }
#ifdef BUG_STALE_CLOCK
  :: else -> skip                                      /* the step is from before we published */
#else
  :: else -> v = clock
#endif
  fi;
#endif
  act[LINE(me)] = v
}

inline sweep() {
  cut = clock;                                         /* the clock first, then each actor once */
#ifndef BUG_NO_GRACE
  i = 0;
  do
  :: i < NA -> d_step { if :: act[i] != IDLE && BEFORE(act[i], cut) -> cut = act[i] :: else fi; i++ }
  :: else -> break
  od;
#endif
  i = 0;
  do
  :: i < NS ->
     d_step { vp = w_page[i]; vs = w_step[i] };
     if
     :: vp != NONE && BEFORE(vs, cut) ->
#ifdef BUG_BLIND_EVICT
        d_step { w_page[i] = NONE; w_step[i] = 0; w_ready[i] = 0 }
#else
        d_step { if :: w_page[i] == vp && w_step[i] == vs -> w_page[i] = NONE; w_step[i] = 0; w_ready[i] = 0 :: else fi }
#endif
     :: else
     fi;
     i++;
     MAY_DIE
  :: else -> break
  od; skip;
  d_step { if :: BEFORE(swept, cut) -> swept = cut :: else fi; i = 0; cut = 0; vp = 0; vs = 0 }
}

proctype actor(byte me) {
  byte n = 0, p = 0, s = 0, v = 0, cut = 0, i = 0, vp = 0, vs = 0; bit vr = 0, ok = 0;
  do
  :: n < STEPS ->
     enter();
     if :: p = 0 :: p = NP - 1 fi;
     s = hint[p];
     if
     :: s == NONE -> goto miss
     :: else
     fi;
     d_step { vp = w_page[s]; vs = w_step[s]; vr = w_ready[s] };
#ifndef BUG_TRUST_HINT
     if :: vp != p -> goto miss :: else fi;
#endif
     d_step {
       if
       :: w_page[s] == vp && w_step[s] == vs -> ok = 1;
#ifdef BUG_STAMP_BACK
          w_step[s] = v
#else
          if :: BEFORE(w_step[s], v) -> w_step[s] = v :: else fi
#endif
       :: else -> ok = 0
       fi
     };
     if :: ok && vr -> goto use :: ok && !vr -> goto fill :: else fi;
miss: skip;
     if :: s = 0 :: s = NS - 1 fi;
     if :: w_page[s] != NONE -> sweep() :: else fi;
     d_step {
       if
       :: w_page[s] == NONE -> ok = 1; w_page[s] = p; w_step[s] = v; w_ready[s] = 0
       :: else -> ok = 0
       fi
     };
     if :: !ok -> goto leave :: else fi;
     MAY_DIE;
     hint[p] = s;
#ifdef BUG_EARLY_READY
     d_step { if :: w_page[s] == p -> w_ready[s] = 1 :: else fi };
#endif
fill: skip;
     lo[s] = p;
     MAY_DIE;
     hi[s] = p;
     MAY_DIE;
     d_step { if :: w_page[s] == p -> w_ready[s] = 1 :: else fi };
use: skip;
     assert(lo[s] == p && hi[s] == p);
     MAY_DIE;
     assert(lo[s] == p && hi[s] == p);
leave: skip;
#ifndef BUG_NO_LEAD
     assert(FORWARD(swept, clock) < HALF);
#endif
     act[LINE(me)] = IDLE;
     d_step { p = 0; s = 0; v = 0; vp = 0; vs = 0; vr = 0; ok = 0; n++ }
  :: else -> break
  od;
  goto end;
dead: act[LINE(me)] = IDLE;                            /* the daemon, when the process is gone */
end: skip
}

init { atomic { byte a = 0; do :: a < NA -> run actor(a); a++ :: else -> break od } }
