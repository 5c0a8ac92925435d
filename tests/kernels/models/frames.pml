/* The versioned frame log (rule 7 of DESIGN §5; kernels/frame_log.h, grace.h).

   NA actors apply one log to one shared frame_of, each entry by an exchange that only raises the version.
   The daemon withdraws the frame of block 0, waits for the grace, writes block 1 into it and logs that; then,
   if there is another frame, gives it to block 0 again. Steps are serial numbers modulo R.

   Checked: an actor never copies bytes that are not its block's; nobody reads a frame while it is written.
   Limits: sequentially consistent; the ring does not overflow (the writer then applies, see the code);
   STEPS steps per actor, each filling one page.
   Checked exhaustively, no error: 2 actors x 2 steps (7.5 million states).
   Seeded bugs: BUG_PLAIN (entries are stored, whatever is there), BUG_STEP_ONLY (a grace looks at steps and not
   at log positions), BUG_NO_GRACE, BUG_FENCE (the log is read before the step is published). */
#ifndef NA
#define NA 2
#endif
#ifndef STEPS
#define STEPS 2
#endif
#define R 16
#define BEFORE(a, b) (a != b && (b + R - a) % R < R / 2)
#define IDLE 31
#define NONE 7
#define LOG 4
#define MAY_DIE if :: goto dead :: skip fi

byte clock = R - 1, act[NA] = IDLE, position[NA];
byte frame_of[2] = NONE, version[2];                   /* one entry: changed in one d_step */
byte e_block[LOG], e_frame[LOG], e_version[LOG];
byte end, applied;
byte flo[2], fhi[2];                                   /* bytes of a frame: block + 1 */
byte reading[NA] = NONE;                               /* ghost: the frame that is being copied */

inline append(block, frame, new_version) {
  e_block[end] = block; e_frame[end] = frame; e_version[end] = new_version;
  end++
}

proctype actor(byte me) {
  byte n = 0, b = 0, f = 0, v = 0, at = 0, to = 0, x = 0;
  do
  :: n < STEPS ->
#ifdef BUG_FENCE
     to = end;
#endif
     v = clock;
     act[me] = v;
#ifndef BUG_FENCE
     to = end;
#endif
     at = applied;
     do
     :: at < to ->
        MAY_DIE;
#ifdef BUG_PLAIN
        d_step { b = e_block[at]; f = e_frame[at]; x = e_version[at] };
        d_step { frame_of[b] = f; version[b] = x };
#else
        d_step { b = e_block[at]; f = e_frame[at]; x = version[b] };
        d_step { if :: version[b] == x && x < e_version[at] -> frame_of[b] = f; version[b] = e_version[at]; x = 1 :: else -> x = 0 fi };
        if :: !x && version[b] < e_version[at] -> goto again :: else fi;
#endif
        at++;
#ifndef BUG_PLAIN
again:  skip
#endif
     :: else -> break
     od; skip;
     d_step { if :: applied < to -> applied = to :: else fi };
     position[me] = to;
     d_step { clock = (clock + 1) % R; v = clock };
     act[me] = v;
     if :: b = 0 :: b = 1 fi;
     d_step { f = frame_of[b]; reading[me] = f };      /* read once */
     if
     :: f != NONE ->
        assert(flo[f] == b + 1);
        MAY_DIE;
        assert(fhi[f] == b + 1)
     :: else
     fi;
     d_step { reading[me] = NONE; b = 0; f = 0; v = 0; at = 0; to = 0; x = 0; n++ };
     act[me] = IDLE
  :: else -> break
  od;
dead: skip; d_step { reading[me] = NONE; act[me] = IDLE }
}

proctype daemon() {
  byte t = 0, l = 0, i = 0, a = 0, p = 0;
  append(0, NONE, 2);
  d_step { l = end; t = clock; clock = (clock + 1) % R };
#ifndef BUG_NO_GRACE
  do
  :: i < NA ->
     a = act[i];
     p = position[i];
#ifdef BUG_STEP_ONLY
     if :: a == IDLE || BEFORE(t, a) -> i++ :: else fi
#else
     if :: a == IDLE || (BEFORE(t, a) && p >= l) -> i++ :: else fi
#endif
  :: else -> break
  od; skip;
#endif
  d_step { i = 0; do :: i < NA -> assert(reading[i] != 0); i++ :: else -> break od; i = 0; flo[0] = 2 };
  d_step { do :: i < NA -> assert(reading[i] != 0); i++ :: else -> break od; i = 0; fhi[0] = 2 };
  append(1, 0, 1);
  d_step { flo[1] = 1; fhi[1] = 1 };
  append(0, 1, 3)
}

init {
  atomic {
    byte a = 0;
    flo[0] = 1; fhi[0] = 1;
    append(0, 0, 1);                                   /* block 0 is in frame 0: logged, not applied by anyone yet */
    do :: a < NA -> run actor(a); a++ :: else -> break od;
    run daemon()
  }
}
