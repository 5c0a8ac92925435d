/* Ids and pins (rules 5, 6 and 8 of DESIGN §5; kernels/grace.h, drop.h, pins.h).

   Actors 0 and 1 are streams of session 0, actor 2 is session 1. Actors attach a block, resolve its one page in
   a step, use it, and may close their reference in mid-step or die anywhere. The daemon, beside them:
     -DIDS   retires id 0 when nobody refers to it: mark, T = clock++, grace, complete scan, new bytes, live
     -DPINS  actor 0 owns unsealed id 1: pins a slot, writes half in one step and half in the next, writes the
             frame, seals, unpins. The daemon buries it if it dies.
   Everybody sweeps between steps. Steps are serial numbers modulo R.

   Checked: nobody uses a slot whose bytes are not the content that it attached; the owner's bytes stay; nobody is
   served an unsealed page.
   Limits: sequentially consistent; NS slots, one page per step, STEPS steps per actor, one reuse; attach and
   close are instantaneous; R is larger than the number of steps, so that no clock lead is needed (steps.pml).
   Checked exhaustively, no error: IDS with 2 actors (1.3 million states), PINS with the owner and 2 others (7 million).
   IDS with 3 actors does not finish in 100 s.
   Seeded bugs: see BUG_ below. */
#ifndef NA
#define NA 3
#endif
#ifndef NS
#define NS 1
#endif
#ifndef STEPS
#define STEPS 1
#endif
#define R 32
#define BEFORE(a, b) (a != b && (b + R - a) % R < R / 2)
#define NONE 7
#define IDLE 63
#define FREE 0
#define OPEN 1
#define LIVE 2
#define RETIRED 3
#define MAY_DIE if :: goto dead :: skip fi

byte clock = R - 2, act[NA] = IDLE;
byte hint[2] = NONE;
byte w_page[NS] = NONE, w_step[NS]; bit w_ready[NS], w_pin[NS];
byte lo[NS], hi[NS];                                   /* bytes of a slot: content */
byte flo[2], fhi[2];                                   /* bytes of the frame of an id */
byte state[2], content[2], refs[2];
bit gone;                                              /* the owner died */

inline enter() {
  v = clock;
  act[me] = v;
  d_step { clock = (clock + 1) % R; v = clock };
  act[me] = v
}

inline sweep() {
  cut = clock;
  s = 0;
  do
  :: s < NA -> d_step { if :: act[s] != IDLE && BEFORE(act[s], cut) -> cut = act[s] :: else fi; s++ }
  :: else -> break
  od;
  s = 0;
  do
  :: s < NS ->
     d_step {
       if
#ifdef BUG_EVICT_PINNED
       :: w_page[s] != NONE && BEFORE(w_step[s], cut) -> w_page[s] = NONE; w_ready[s] = 0; w_pin[s] = 0
#else
       :: w_page[s] != NONE && BEFORE(w_step[s], cut) && !w_pin[s] -> w_page[s] = NONE; w_ready[s] = 0
#endif
       :: else
       fi;
       s++
     }
  :: else -> break
  od; skip;
  d_step { s = 0; cut = 0 }
}

proctype actor(byte me) {
  byte n = 0, p = 0, s = 0, v = 0, cut = 0, vs = 0, mine = 0; bit vr = 0, ok = 0, held = 0;
  do
  :: n < STEPS ->
     atomic {
       if
       :: state[0] == LIVE -> p = 0
       :: state[1] == LIVE -> p = 1
       :: state[0] != LIVE && state[1] != LIVE -> goto next
       fi;
       refs[p]++; held = 1; mine = content[p]
     };
     enter();
     if :: atomic { refs[p]--; held = 0 } :: skip fi;  /* the last reference may go in mid-step */
     s = hint[p];
     if :: s == NONE -> goto miss :: else fi;
     d_step { ok = (w_page[s] == p); vs = w_step[s]; vr = w_ready[s];
#ifndef BUG_FILL_PINNED
              if :: ok && w_pin[s] -> ok = 0; vs = NONE :: else fi
#endif
            };
     if :: !ok && vs == NONE -> vs = 0; goto leave :: !ok && vs != NONE -> goto miss :: else fi;
     d_step {
       if
       :: w_page[s] == p && w_step[s] == vs -> if :: BEFORE(vs, v) -> w_step[s] = v :: else fi
       :: else -> ok = 0
       fi
     };
     if :: !ok -> goto miss :: ok && vr -> goto use :: else -> goto fill fi;
miss: skip;
     if :: s = 0 :: s = NS - 1 fi;
     d_step {
       if
       :: w_page[s] == NONE -> ok = 1; w_page[s] = p; w_step[s] = v; w_ready[s] = 0; w_pin[s] = 0
       :: else -> ok = 0
       fi
     };
     if :: !ok -> goto leave :: else fi;
     MAY_DIE;
     hint[p] = s;
fill: skip;
     lo[s] = flo[p];
     MAY_DIE;
     hi[s] = fhi[p];
     d_step { if :: w_page[s] == p && !w_pin[s] -> w_ready[s] = 1 :: else fi };
use: skip;
     assert(lo[s] == mine && hi[s] == mine);
     MAY_DIE;
     assert(lo[s] == mine && hi[s] == mine);
leave: skip;
     act[me] = IDLE;
     if :: held -> atomic { refs[p]--; held = 0 } :: else fi;
     d_step { p = 0; s = 0; v = 0; vs = 0; vr = 0; ok = 0; mine = 0 };
     if :: skip :: sweep() fi;
next: n++
  :: else -> break
  od;
dead: skip; d_step { act[me] = IDLE; if :: held -> refs[p]--; held = 0 :: else fi }
}

#ifdef PINS
proctype owner(byte me) {
  byte s = 0, v = 0; bit ok = 0;
  enter();
  if :: s = 0 :: s = NS - 1 fi;
  d_step {
    if
    :: w_page[s] == NONE -> ok = 1; w_page[s] = 1; w_step[s] = v; w_ready[s] = 0; w_pin[s] = 1
    :: else
    fi
  };
  if :: !ok -> goto dead :: else fi;
  MAY_DIE;
  hint[1] = s;
  lo[s] = 2;
#ifdef BUG_UNPIN_EARLY
  d_step { if :: w_page[s] == 1 -> w_pin[s] = 0 :: else fi };
#endif
  act[me] = IDLE;
  MAY_DIE;
  enter();
#ifndef BUG_UNPIN_EARLY
  d_step { assert(w_page[s] == 1 && w_pin[s]); w_step[s] = v };
#endif
  assert(lo[s] == 2);
  hi[s] = 2;
#ifdef BUG_SEAL_BEFORE_FRAME
  state[1] = LIVE;
  d_step { if :: w_page[s] == 1 && w_pin[s] -> w_pin[s] = 0; w_ready[s] = 1 :: else fi };
#endif
  MAY_DIE;
  flo[1] = lo[s];
  MAY_DIE;
  fhi[1] = hi[s];
  act[me] = IDLE;
  MAY_DIE;
  state[1] = LIVE;                                     /* the daemon publishes the key */
  MAY_DIE;
  enter();
  d_step { if :: w_page[s] == 1 && w_pin[s] -> w_pin[s] = 0; w_ready[s] = 1; w_step[s] = v :: else fi };
  MAY_DIE;
#ifndef BUG_UNPIN_EARLY
  assert(lo[s] == 2 && hi[s] == 2);
#endif
  act[me] = IDLE;
  goto end;
dead: skip; d_step { act[me] = IDLE; gone = 1 };
end: skip
}
#endif

inline grace() {
  i = 0;
  do
  :: i < NA ->
     a = act[i];
#ifdef BUG_GRACE_GE
     if :: a == IDLE || !BEFORE(a, t) -> i++ :: else fi
#else
     if :: a == IDLE || BEFORE(t, a) -> i++ :: else fi
#endif
  :: else -> break
  od;
  i = 0
}

inline scan(id, pins_only) {
  i = 0;
  do
  :: i < NS ->
     d_step { if :: w_page[i] == id && (!pins_only || w_pin[i]) -> w_page[i] = NONE; w_ready[i] = 0; w_pin[i] = 0 :: else fi; i++ }
  :: else -> break
  od;
  i = 0
}

proctype daemon() {
  byte t = 0, i = 0, a = 0; bit ok = 0;
#ifdef PINS
  do
  :: gone ->
#ifndef BUG_NO_DROP_PINS
     scan(1, 1);
#endif
     i = 0;
     do :: i < NS -> assert(!w_pin[i]); i++ :: else -> break od;
     break
  :: state[1] == LIVE -> break
  od;
#endif
#ifdef IDS
  d_step { t = clock };
#ifdef BUG_T_EARLY
  d_step { clock = (clock + 1) % R };
#endif
  refs[0] == 0;                                        /* wait for it */
  d_step { if :: refs[0] == 0 -> state[0] = RETIRED; ok = 1 :: else fi };
  if :: !ok -> goto end :: else fi;
#ifndef BUG_T_EARLY
  d_step { t = clock; clock = (clock + 1) % R };
#endif
#ifdef BUG_SCAN_THEN_GRACE
  scan(0, 0);
#endif
#ifndef BUG_NO_GRACE
  grace();
#endif
#ifndef BUG_SCAN_THEN_GRACE
#ifndef BUG_NO_SCAN
  scan(0, 0);
#endif
#endif
  content[0] = 3;
  flo[0] = 3;
  fhi[0] = 3;
  state[0] = LIVE;
end: skip
#endif
}

init {
  atomic {
    byte a = 0;
    state[0] = LIVE; content[0] = 1; flo[0] = 1; fhi[0] = 1;
    content[1] = 2;
#ifdef PINS
    state[1] = OPEN;
    run owner(0); a = 1;
#else
    state[1] = LIVE; flo[1] = 2; fhi[1] = 2;
#endif
    do :: a < NA -> run actor(a); a++ :: else -> break od;
    run daemon()
  }
}
