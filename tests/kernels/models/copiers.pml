/* Lookers hand fills over to copiers (kernels/cuda/copiers.cuh), launch after launch with one scratch memory.

   A looker takes places at the end of the list, and stores its fills there; that it did is counted when the places are
   taken, before or after the stores. Copiers take pieces in turn, PARTS of a page, as soon as they see its fill, until
   they know the end of the list; then they say of each page, or the last of its parts does, that it is ready, and
   clear its place. The clerk changes the books for the next launch when all have looked up. With FAR it also notes
   whether lookers of the next launch hand over at all.

   Checked: a launch ends; every fill was copied, PARTS times, ready once, after all of it was copied, and the list is
   empty afterwards.
   Limits: sequentially consistent; NL lookers of at most two fills, NC copiers, LAUNCHES launches.
   Seeded bugs: BUG_KEEP (places are not cleared), BUG_FIRST (the first part clears the place), BUG_END (the end is read
   before all lookers have counted), BUG_ONE_COUNT (launches share one count of pages), BUG_FORGET (nothing is handed
   over); with FAR: BUG_BASE (lookers that hand nothing over are counted), BUG_LATE (lookers read the note when they have
   looked up). */
#ifndef NL
#define NL 2
#endif
#ifndef NC
#define NC 2
#endif
#ifndef PARTS
#define PARTS 1
#endif
#ifndef LAUNCHES
#define LAUNCHES 3
#endif
#define PLACES (2 * NL)
#ifdef BUG_END
#define ALL_COUNTED (handed > base)
#else
#define ALL_COUNTED (handed - base == NL)
#endif

/* Scratch memory. */
byte turn, handed_base, looked_base, looked, handed;
#ifdef FAR
bit far;
#else
bit far = 1;
#endif
byte pages[2];
byte seen[PLACES];
/* What a launch is to do, and did. */
byte given, copied[PLACES], ready[PLACES];
byte running;

#ifdef BUG_ONE_COUNT
#define COUNT 0
#else
#define COUNT (t % 2)
#endif

proctype looker() {
  byte t, n, at, i;
  bool told;
  bit f;
  atomic { t = turn; f = far };
  looked++;
#ifdef BUG_LATE
  f = far;
#endif
  if
  :: !f -> goto through  // it copies what it missed
  :: f
  fi;
  atomic { if :: n = 0 :: n = 1 :: n = 2 fi; given = given + n };
  atomic { at = pages[COUNT]; pages[COUNT] = at + n };
  do
#ifdef BUG_FORGET
  :: i < n -> i++
#else
  :: i < n -> assert(seen[at + i] == 0); seen[at + i] = 1; i++
#endif
  :: !told -> handed++; told = true
  :: i == n && told -> break
  od;
through:
  atomic { running--; t = 0; n = 0; at = 0; i = 0; told = 0; f = 0 }
}

proctype copier(byte me) {
  byte t, base, piece, end, found;
  bool known;
  bit f;
  atomic { t = turn; f = far; base = handed_base; end = PLACES; piece = me };
  looked++;
  if
  :: !f -> goto through
  :: f
  fi;
  do
  :: piece / PARTS >= end -> break
  :: piece / PARTS < end ->
     /* Blocks, so that what never comes is an end that is none. */
     atomic {
       seen[piece / PARTS] != 0 || (!known && ALL_COUNTED);
       found = seen[piece / PARTS];
       if
       :: found == 0 -> end = pages[COUNT]; known = true
       :: else
       fi
     };
     if
     :: found != 0 -> copied[piece / PARTS]++; piece = piece + NC
     :: else
     fi
  od;
  /* All of the block is stored, and the end is known. */
  atomic { known || handed - base == NL -> if :: known :: else -> end = pages[COUNT] fi };
  piece = me;
  do
  :: piece / PARTS >= end -> break
  :: piece / PARTS < end ->
     atomic {
       seen[piece / PARTS]++;
       if
#ifdef BUG_FIRST
       :: seen[piece / PARTS] == 2 -> ready[piece / PARTS]++; seen[piece / PARTS] = 0
#else
       :: seen[piece / PARTS] == 1 + PARTS ->
          assert(copied[piece / PARTS] == PARTS);
          ready[piece / PARTS]++;
#ifndef BUG_KEEP
          seen[piece / PARTS] = 0
#endif
#endif
       :: else
       fi
     };
     piece = piece + NC
  od;
through:
  atomic { running--; t = 0; base = 0; piece = 0; end = 0; found = 0; known = 0; f = 0 }
}

proctype clerk() {
  byte t;
  t = turn;
  looked - looked_base == NL + NC;
  looked_base = looked_base + NL + NC;
#ifndef BUG_BASE
  handed_base = handed_base + (far -> NL : 0);
#else
  handed_base = handed_base + NL;
#endif
#ifdef FAR
  if :: far = 0 :: far = 1 fi;
#endif
  turn = t + 1;
#ifdef BUG_ONE_COUNT
  pages[0] = 0;
#else
  pages[(t + 1) % 2] = 0;
#endif
  atomic { running--; t = 0 }
}

init {
  byte launch, i;
  do
  :: launch == LAUNCHES -> break
  :: launch < LAUNCHES ->
     atomic {
       running = NL + NC + 1;
       i = 0; do :: i == NL -> break :: i < NL -> run looker(); i++ od;
       i = 0; do :: i == NC -> break :: i < NC -> run copier(i); i++ od;
       run clerk()
     };
     running == 0;
     atomic {
       i = 0;
       do
       :: i == PLACES -> break
       :: i < PLACES ->
          assert(seen[i] == 0);
          assert(copied[i] == (i < given -> PARTS : 0));
          assert(ready[i] == (i < given -> 1 : 0));
          copied[i] = 0; ready[i] = 0; i++
       od;
       given = 0; i = 0; launch++
     }
  od
}
