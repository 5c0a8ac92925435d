/* Launches of a device (kernels/cuda/resolve.cu): the threads of a launch share their actor's step.

   Actor 0 runs launches of two threads, actor 1 of T1; a thread resolves one page, the same as its sibling's or
   another. There is no sweep: a claim takes any word that is free or below the cut. Whoever makes the transition of a word to {page,
   our step, not ready}, by a claim or by raising the step of a fill that somebody else began, owes the fill; a
   sibling that meets such a word does not fill it (rule 2 of DESIGN §5 says why nobody else may skip). Between
   launches the slots are used. An actor that advances stays active in its last step until both threads have looked
   up, and then publishes the step of the launch. Actor DIES may die anywhere, threads and all;
   later it is seen idle. With AGAIN, what died was a worker of the daemon: another one launches again in the same
   step, of which it says that it is shared, so that its threads leave no fill to each other.

   Checked: a slot that a launch gave holds its page's bytes, all of them, until the next launch begins.
   Limits: sequentially consistent; two pages, NS slots, LAUNCHES launches per actor; no pins, one frame per page.
   Checked exhaustively, no error: with the death of either actor (5 and 7 million states), and AGAIN (25 million).
   Seeded bugs: BUG_NOT_SHARED (with AGAIN: it does not say so), BUG_SKIP (nobody fills what somebody else began), BUG_SAME_STEP (steps are not unique), BUG_READY
   (ready before the bytes), BUG_CUT (the cut is the clock), BUG_PUBLISH (the next step is published while slots of
   the last one are in use), BUG_GIVE_UP (a claim of the slot that the hint named is given up, though others may have
   met it). */
#ifndef T1
#define T1 1
#endif
#ifndef NA
#define NA 2
#endif
#ifndef NS
#define NS 2
#endif
#ifndef LAUNCHES
#define LAUNCHES 1
#endif
#ifndef DIES
#define DIES 1
#endif
#define NONE 7
#ifndef HINT
#define HINT NONE                                      /* a slot: as if both pages had been there once */
#endif
#define IDLE 63

byte clock = 1, act[NA] = IDLE, step[NA];
byte hint[2] = HINT;
byte w_page[NS] = NONE, w_step[NS]; bit w_ready[NS];
byte lo[NS], hi[NS];                                   /* bytes of a slot: page + 1 */
byte running[NA], looked[NA];                          /* threads of the launch */
byte page[NA * 2] = NONE, slot[NA * 2] = NONE;         /* what each thread was asked for, and got */
bit dead[NA];
bit shared[NA];                                        /* the step is: an earlier launch of it died */

#define MAY_DIE if :: dead[me] -> goto stop :: else fi

proctype thread(byte me; byte t) {
  byte p = page[t], s = NONE, h = hint[page[t]], first = hint[page[t]], v = 0, cut = 0, a = 0; bit owes = 0;
  if
  :: h != NONE ->
     MAY_DIE;
     atomic {
       if
       :: w_page[h] != p -> skip
       :: w_page[h] == p && w_ready[h] -> s = h; if :: w_step[h] < step[me] -> w_step[h] = step[me] :: else fi
#ifdef BUG_SKIP
       :: w_page[h] == p && !w_ready[h] -> s = h
#else
       :: w_page[h] == p && !w_ready[h] && w_step[h] == step[me] && !shared[me] -> s = h
       :: w_page[h] == p && !w_ready[h] && (w_step[h] != step[me] || shared[me]) -> s = h; owes = 1;
          if :: w_step[h] < step[me] -> w_step[h] = step[me] :: else fi
#endif
       fi;
       looked[me]++
     }
  :: else -> looked[me]++
  fi;
  if :: s != NONE -> goto fill :: else fi;

  MAY_DIE;
  cut = clock;
#ifndef BUG_CUT
  do
  :: a < NA -> d_step { if :: act[a] < cut -> cut = act[a] :: else fi; a++ }
  :: else -> break
  od;
#endif
  MAY_DIE;
  s = 0;
  do
  :: s < NS ->
     atomic {
       if
       :: w_page[s] == NONE || w_step[s] < cut -> w_page[s] = p; w_step[s] = step[me]; w_ready[s] = 0; owes = 1; break
       :: else -> s++
       fi
     }
  :: s < NS - 1 -> s++                                 /* windows begin anywhere */
  :: s == NS -> s = NONE; goto stop                    /* none: counted */
  od;
  MAY_DIE;
  atomic {
    if
    :: hint[p] == h -> hint[p] = s; h = NONE
    :: else -> h = hint[p]
    fi
  };
  if
#ifdef BUG_GIVE_UP
  :: h != NONE && h != s ->                            /* somebody was first */
#else
  :: h != NONE && h != s && first != s ->              /* somebody was first, and nobody has met our claim */
#endif
     MAY_DIE;
     atomic {
       v = 0;
       if
       :: w_page[h] == p && w_ready[h] -> v = 1; if :: w_step[h] < step[me] -> w_step[h] = step[me] :: else fi
       :: w_page[h] == p && !w_ready[h] && w_step[h] == step[me] && !shared[me] -> v = 1
       :: else
       fi
     };
     if
     :: v == 1 ->
        MAY_DIE;
        atomic {
          if :: w_page[s] == p && w_step[s] == step[me] && !w_ready[s] -> w_page[s] = NONE :: else fi
        };
        s = h; owes = 0
     :: else -> hint[p] = s
     fi
  :: else
  fi;

fill:
  if
  :: owes ->
#ifdef BUG_READY
     w_ready[s] = 1;
#endif
     MAY_DIE; lo[s] = p + 1;
     MAY_DIE; hi[s] = p + 1;
     MAY_DIE; w_ready[s] = 1
  :: else
  fi;
stop: atomic { slot[t] = s; running[me]--; p = 0; s = 0; h = 0; v = 0; cut = 0; a = 0; owes = 0 }
}

proctype actor(byte me) {
  byte n = 0, next = 0, t = 0; bit again = 0;
  do
  :: n < LAUNCHES ->
     if
     :: act[me] == IDLE ->                             /* enter: publish, fence, advance, publish */
        act[me] = clock;
#ifdef BUG_SAME_STEP
        next = clock;
#else
        d_step { clock++; next = clock };
#endif
        act[me] = next
     :: else -> d_step { clock++; next = clock }       /* taken in the launch before */
     fi;
#ifdef BUG_PUBLISH
     act[me] = next;
#endif
     t = me * 2;
     do
     :: t < me * 2 + 2 && slot[t] != NONE ->           /* the slots of the launch before, until now */
        assert(w_page[slot[t]] == page[t] && lo[slot[t]] == page[t] + 1 && hi[slot[t]] == page[t] + 1);
        t++
     :: t < me * 2 + 2 && slot[t] == NONE -> t++
     :: else -> break
     od;
     atomic {
       shared[me] = 0;
       if :: page[me * 2] = 0 :: me > 0 -> page[me * 2] = 1 fi;   /* pages are alike */
       if :: page[me * 2 + 1] = page[me * 2] :: page[me * 2 + 1] = 1 - page[me * 2] fi;
launch:
       step[me] = next;
       looked[me] = 0; running[me] = (me == 0 -> 2 : T1);
       slot[me * 2] = NONE; slot[me * 2 + 1] = NONE;
       run thread(me, me * 2);
       if :: me == 0 || T1 == 2 -> run thread(me, me * 2 + 1) :: else -> page[me * 2 + 1] = NONE fi
     };
     do
     :: looked[me] == (me == 0 -> 2 : T1) && act[me] != next -> act[me] = next
     :: running[me] == 0 -> break
     :: me == DIES && !dead[me] -> dead[me] = 1
     od;
#ifdef AGAIN
     if
     :: dead[me] && !again ->
        atomic {
          again = 1; dead[me] = 0;
#ifndef BUG_NOT_SHARED
          shared[me] = 1
#endif
        };
        goto launch
     :: else
     fi;
#endif
     if :: dead[me] -> goto over :: else fi;
     act[me] = next;
     n++
  :: else -> break
  od;
  t = me * 2;
  do
  :: t < me * 2 + 2 && slot[t] != NONE ->
     assert(w_page[slot[t]] == page[t] && lo[slot[t]] == page[t] + 1 && hi[slot[t]] == page[t] + 1);
     t++
  :: t < me * 2 + 2 && slot[t] == NONE -> t++
  :: else -> break
  od;
over: atomic { act[me] = IDLE; n = 0; next = 0; t = 0; again = 0 }
}

init { atomic { byte a = 0; do :: a < NA -> run actor(a); a++ :: else -> break od } }
