/* Sleeping and waking over the rings of a session (ipc/ring.h, waiter.h, doorbell.h; the sleep of
   daemon/lanes.cpp; the elected reader of client/channel.cpp).

   The threads of a client send requests under its mutex; one of them reads completions for all and sleeps
   on the doorbell, the others wait on a condition variable. One lane takes the requests of all sessions,
   answers each at once, and sleeps in one epoll over their doorbells. Each processor has a store buffer of
   DEPTH stores (TSO: a load may overtake the stores before it); a sequentially consistent store, an
   exchange and the mutex wait until it is empty. Calls of the kernel do not. No end loads what it stores
   itself, so that a load need not look into its own buffer.

     -DTIMEOUTS      the last thread of each client may time out, leave its request behind and send another
     -DSPURIOUS=n    so often the lane wakes up for nothing (signals, commands)
     -DCLIENT_DIES, -DDAEMON_DIES   the client of session 0, or the daemon, ends anywhere; what is in its
                     store buffers arrives, and then its sockets hang up

   Checked: when nothing moves any more, no request lies in a ring and every thread that waits has ended. No
   request is lost, or taken or answered twice; no ring is ever full for an honest end; what a daemon
   published before it died is taken; no bell wakes twice for one ring.
   Limits: rings of 2 slots, cursors modulo 4; a slot is written and read with the cursor; no private copies
   of the other end's cursor; a condition variable does not wake for nothing.
   Checked exhaustively, no error: see configurations. Seeded bugs: see BUG_ below; each must be found. */
#ifndef SESSIONS
#define SESSIONS 1
#endif
#ifndef THREADS
#define THREADS 2                                      /* of each client */
#endif
#ifndef REQUESTS
#define REQUESTS 1                                     /* of each thread */
#endif
#ifndef SPURIOUS
#define SPURIOUS 0
#endif
#ifndef DEPTH
#define DEPTH 2
#endif
#ifndef BELL
#define BELL 1                                         /* rings that lie in a full doorbell; more are dropped */
#endif
#define SLOTS 2                                        /* of a ring; so many tickets has a client */
#define R 4
#define USED(tail, head) ((tail + R - head) % R)
#define NEXT(cursor) ((cursor + 1) % R)

/* The shared words of session c: submission ring, then completion ring. */
#define S_TAIL (c * 6)
#define S_HEAD (c * 6 + 1)
#define S_WISH (c * 6 + 2)                             /* need_wakeup */
#define C_TAIL (c * 6 + 3)
#define C_HEAD (c * 6 + 4)
#define C_WISH (c * 6 + 5)
byte shared[6 * SESSIONS];
byte submitted[SLOTS * SESSIONS], completed[SLOTS * SESSIONS];      /* the slots: tickets */
#define SLOT(cursor) (SLOTS * c + cursor % SLOTS)

chan buffer[1 + SESSIONS * THREADS] = [DEPTH] of { byte, byte };    /* store buffers: word, value */
#define STORE(word, value) buffer[me]!word,value
#define STORE_SC(word, value) d_step { empty(buffer[me]) -> shared[word] = value }
#define EXCHANGE_0(word, was) d_step { empty(buffer[me]) -> was = shared[word]; shared[word] = 0 }

/* Doorbells: the lane's end of session c, then the client's. `fresh` is a ghost: rung since the last wake-up. */
#define LANE_BELL (2 * c)
#define CLIENT_BELL (2 * c + 1)
byte bell[2 * SESSIONS];
bit fresh[2 * SESSIONS];
#define RING(b) d_step { fresh[b] = 1; if :: bell[b] < BELL -> bell[b]++ :: else fi }
#define DRAIN(b) d_step { bell[b] = 0; fresh[b] = 0 }

bit client_dead, daemon_dead;                          /* takes no more steps */
bit client_gone, daemon_gone;                          /* its sockets hang up */

/* The private memory of a client, under its mutex. */
#define FREE 0
#define WAITING 1
#define ABANDONED 2
#define DONE 3
bit locked[SESSIONS], reading[SESSIONS], ended[SESSIONS];
byte ticket[SLOTS * SESSIONS];
byte next_submission[SESSIONS], next_completion[SESSIONS];
bit asleep[1 + SESSIONS * THREADS];                    /* on the condition variable */

byte lane_taken[SESSIONS], lane_answered[SESSIONS], spurious = SPURIOUS;

/* A ghost: where the request of a ticket is. */
#define NOWHERE 0
#define SENT 1
#define TAKEN 2
#define ANSWERED 3
byte life[SLOTS * SESSIONS];
#define MOVES(request, from, to) assert(life[request] == from); life[request] = to

proctype store_buffer(byte me) {
  byte word, value;
end: do :: d_step { buffer[me]?word,value -> shared[word] = value; word = 0; value = 0 } od
}

/* ---- ring.h */

/* RingProducer::publish, and ringing if it says so. */
inline publish(tail, cursor, wish, its_bell) {
#ifdef BUG_ASK_FIRST
  asked = shared[wish];
#endif
#ifdef BUG_PRODUCER_FENCE
  STORE(tail, cursor);
#else
  STORE_SC(tail, cursor);
#endif
#ifndef BUG_ASK_FIRST
  asked = shared[wish];
#endif
  if
#ifdef BUG_TAKE_BACK_LATE
  :: asked -> RING(its_bell); STORE(wish, 0)
#else
  :: asked -> EXCHANGE_0(wish, asked); if :: asked -> RING(its_bell) :: else fi
#endif
  :: else
  fi;
  asked = 0
}

/* RingConsumer::prepare_to_sleep: whether it found nothing. */
inline prepare_to_sleep(tail, cursor, wish) {
#ifdef BUG_LOOK_FIRST
  nothing = (shared[tail] == cursor);
#endif
#ifdef BUG_CONSUMER_FENCE
  STORE(wish, 1);
#else
  STORE_SC(wish, 1);
#endif
#ifdef BUG_NO_LOOK
  nothing = 1;
#endif
#if !defined(BUG_LOOK_FIRST) && !defined(BUG_NO_LOOK)
  nothing = (shared[tail] == cursor);
#endif
  if :: nothing :: else -> STORE(wish, 0) fi
}

/* ---- channel.cpp */

#ifdef TIMEOUTS
#define MAY_TIME_OUT (t == THREADS - 1)
#else
#define MAY_TIME_OUT 0
#endif
#define MINE ticket[SLOTS * c + s]
#define LEAVE 0
#define SEND 1
#define READ 2
#define WAIT 3

#define LOCK !locked[c] && empty(buffer[me]) -> locked[c] = 1
#define UNLOCK d_step { empty(buffer[me]) -> locked[c] = 0 }

/* All in d_step, under the mutex. */
inline tell_all() {
  i = 0;
  do :: i < THREADS -> asleep[1 + c * THREADS + i] = 0; i++ :: else -> break od;
  i = 0
}

/* Channel::submit and the loops of submit and wait: what to do next. Keeps the lock for SEND only. */
inline decide() {
  if
  :: sent && MINE == DONE -> MINE = FREE; tell_all(); next = LEAVE
  :: !sent && !ended[c] && (ticket[SLOTS * c] == FREE || ticket[SLOTS * c + 1] == FREE) ->
     if :: ticket[SLOTS * c] == FREE -> s = 0 :: else -> s = 1 fi;
     MINE = WAITING;
     MOVES(SLOTS * c + s, NOWHERE, SENT);
     assert(USED(next_submission[c], shared[S_HEAD]) < SLOTS);
     submitted[SLOT(next_submission[c])] = s;
     next_submission[c] = NEXT(next_submission[c]);
     sent = 1;
     late = 0;
     next = SEND
  :: else ->
     if
#ifdef BUG_TICKET_EARLY
     :: (ended[c] || late) && sent -> MINE = FREE; next = LEAVE
#else
     :: (ended[c] || late) && sent -> MINE = ABANDONED; next = LEAVE
#endif
     :: (ended[c] || late) && !sent -> next = LEAVE
     :: !ended[c] && !late && reading[c] -> asleep[me] = 1; next = WAIT
     :: !ended[c] && !late && !reading[c] -> reading[c] = 1; next = READ
     fi
  fi;
  if :: next == SEND :: else -> locked[c] = 0 fi
}

/* Waiter::wait, after a spin in vain (a spin that helps is a look that came later). */
inline wait_for_completion() {
  if :: shared[C_TAIL] != next_completion[c] -> goto found :: else fi;
again:
  prepare_to_sleep(C_TAIL, next_completion[c], C_WISH);
  if :: !nothing -> goto found :: else fi;
#ifdef BUG_READER_DRAINS_LATE
  DRAIN(CLIENT_BELL);
#endif
  if
  :: d_step { bell[CLIENT_BELL] > 0 -> assert(fresh[CLIENT_BELL]); fresh[CLIENT_BELL] = 0 };
#if !defined(BUG_READER_NO_DRAIN) && !defined(BUG_READER_DRAINS_LATE)
     DRAIN(CLIENT_BELL)
#endif
  :: daemon_gone -> gone = 1
  :: MAY_TIME_OUT -> late = 1
#ifndef BUG_SLEEPS_FOR_A_TICKET
  :: !sent -> skip                                     /* looks for a ticket every now and then */
#endif
  fi;
#ifdef BUG_GONE_FIRST
  if :: gone -> goto found :: else fi;
#endif
#ifndef BUG_WITHDRAWS_LATE
  STORE(C_WISH, 0);
#endif
  if
  :: shared[C_TAIL] != next_completion[c] -> gone = 0
  :: else -> if :: gone || late || !sent :: else -> goto again fi
  fi;
found:
  nothing = 0
}

/* Channel::take_completions. */
inline take_completions() {
  do
  :: d_step {
       shared[C_TAIL] != next_completion[c] ->
       i = SLOTS * c + completed[SLOT(next_completion[c])];
       MOVES(i, ANSWERED, NOWHERE);
       if
       :: ticket[i] == WAITING -> ticket[i] = DONE
       :: ticket[i] == ABANDONED -> ticket[i] = FREE
       :: else -> assert(false)
       fi;
       next_completion[c] = NEXT(next_completion[c]);
       tell_all()
     };
     STORE(C_HEAD, next_completion[c])
  :: else -> break
  od
}

/* Channel::call; the reader's part of Channel::pump. */
proctype thread(byte c, t) {
  byte n = 0, s = 0, i = 0, next = LEAVE, me = 1 + c * THREADS + t;
  bit sent = 0, asked = 0, nothing = 0, gone = 0, late = 0;
#ifdef CLIENT_DIES
  {
#endif
    do
    :: n < REQUESTS ->
       d_step { LOCK; decide() };
turn:  if
       :: next == SEND ->
          publish(S_TAIL, next_submission[c], S_WISH, LANE_BELL);
          UNLOCK;
          d_step { LOCK; decide() };
          goto turn
       :: next == WAIT ->
          if :: !asleep[me] :: MAY_TIME_OUT -> asleep[me] = 0; late = 1 fi;
          d_step { LOCK; decide() };
          goto turn
       :: next == READ ->
          wait_for_completion();
#ifdef BUG_NO_HAND_OVER
          d_step { LOCK; reading[c] = 0 };
#else
          d_step { LOCK; reading[c] = 0; tell_all() };
#endif
#ifdef BUG_WITHDRAWS_LATE
          UNLOCK;
          STORE(C_WISH, 0);
          d_step { LOCK };
#endif
          if
          :: gone -> d_step { assert(shared[C_TAIL] == next_completion[c]); ended[c] = 1; gone = 0; tell_all() }
          :: else -> take_completions(); skip
          fi;
          d_step { empty(buffer[me]) -> decide() };
          goto turn
       :: next == LEAVE -> d_step { s = 0; late = 0; sent = 0; n++ }
       fi
    :: else -> break
    od
#ifdef CLIENT_DIES
  } unless { d_step { c == 0 && client_dead -> n = 0; s = 0; i = 0; next = 0; sent = 0; asked = 0; nothing = 0; late = 0 } }
#endif
}

/* ---- lanes.cpp */

#if SESSIONS == 1
#define A_BELL_RINGS (bell[0] > 0)
#else
#define A_BELL_RINGS (bell[0] > 0 || bell[2] > 0)
#endif
#define HANGS_UP (c == 0 && client_gone && watched)

proctype lane() {
  byte c = 0, i = 0, me = 0;
  bit worked = 0, nothing = 0, quiet = 0, asked = 0, watched = 1, hung_up = 0, event[SESSIONS];
#ifdef DAEMON_DIES
  {
#endif
    do
    :: worked = 0;
       do
       :: c < SESSIONS ->
          if
          :: d_step {
               shared[S_TAIL] != lane_taken[c] ->
               worked = 1;
               i = submitted[SLOT(lane_taken[c])];
               MOVES(SLOTS * c + i, SENT, TAKEN);
               lane_taken[c] = NEXT(lane_taken[c])
             };
             STORE(S_HEAD, lane_taken[c]);
             d_step {
               assert(USED(lane_answered[c], shared[C_HEAD]) < SLOTS);
               MOVES(SLOTS * c + i, TAKEN, ANSWERED);
               completed[SLOT(lane_answered[c])] = i;
               lane_answered[c] = NEXT(lane_answered[c]);
               i = 0
             };
             publish(C_TAIL, lane_answered[c], C_WISH, CLIENT_BELL)
          :: else
          fi;
          c++
       :: else -> c = 0; break
       od;
       if
       :: worked
       :: else ->
          quiet = 1;
          do
          :: c < SESSIONS && quiet ->
             prepare_to_sleep(S_TAIL, lane_taken[c], S_WISH);
#ifdef BUG_LANE_LAST_ONLY
             quiet = nothing || c < SESSIONS - 1;
#else
             quiet = nothing;
#endif
             nothing = 0;
             c++
          :: else -> c = 0; break
          od;
#ifdef BUG_LANE_DRAINS_LATE
          if :: quiet -> DRAIN(0) :: else fi;
#endif
          if
          :: quiet ->
end_sleep:   if
             :: d_step {
                  A_BELL_RINGS || HANGS_UP ->
                  do
                  :: c < SESSIONS ->
                     if
                     :: bell[LANE_BELL] > 0 -> assert(fresh[LANE_BELL]); fresh[LANE_BELL] = 0; event[c] = 1
                     :: else
                     fi;
                     c++
                  :: else -> break
                  od;
                  c = 0;
                  if :: HANGS_UP && !event[0] -> assert(!hung_up); hung_up = 1 :: else fi
                }
             :: spurious > 0 -> spurious--
             fi;
#ifndef BUG_LANE_NO_DRAIN
             do
             :: c < SESSIONS -> if :: event[c] -> DRAIN(LANE_BELL) :: else fi; c++
             :: else -> c = 0; break
             od; skip;
#endif
             d_step {
               quiet = 0;
               do :: c < SESSIONS -> event[c] = 0; c++ :: else -> break od;
               c = 0;
#ifndef BUG_KEEPS_WATCHING
               if :: hung_up -> watched = 0; hung_up = 0 :: else fi
#endif
             }
          :: else
          fi;
          do :: c < SESSIONS -> STORE(S_WISH, 0); c++ :: else -> c = 0; break od
       fi
    od
#ifdef DAEMON_DIES
  } unless { d_step { daemon_dead -> c = 0; i = 0; worked = 0; nothing = 0; quiet = 0; asked = 0; event[0] = 0 } }
#endif
}

/* ---- ends */

/* What the dead can no longer use is set to zero, so that states differ only in what matters. */
proctype death() {
  byte i = 0;
  skip;
#ifdef CLIENT_DIES
  if
  :: client_dead = 1;
     d_step {
       empty(buffer[1]) && empty(buffer[THREADS]) ->
       client_gone = 1;
       locked[0] = 0; reading[0] = 0; next_submission[0] = 0; next_completion[0] = 0; bell[1] = 0; fresh[1] = 0;
       do :: i < SLOTS -> ticket[i] = 0; i++ :: else -> break od;
       i = 0;
       do :: i < THREADS -> asleep[1 + i] = 0; i++ :: else -> break od;
       i = 0
     }
  :: skip
  fi
#endif
#ifdef DAEMON_DIES
  if
  :: daemon_dead = 1;
     d_step {
       empty(buffer[0]) ->
       daemon_gone = 1;
       lane_taken[0] = 0; bell[0] = 0; fresh[0] = 0
     }
  :: skip
  fi
#endif
}

proctype stillness() {
  byte c = 0;
  timeout ->
  do
  :: c < SESSIONS -> assert(daemon_dead || shared[S_TAIL] == lane_taken[c]); c++
  :: else -> break
  od
}

init {
  atomic {
    byte a = 0, b = 0;
    do :: a < 1 + SESSIONS * THREADS -> run store_buffer(a); a++ :: else -> break od;
    run stillness();
    run death();
    run lane();
    a = 0;
    do
    :: a < SESSIONS ->
       b = 0;
       do :: b < 6 -> shared[6 * a + b] = (b == 2 || b == 5 -> 0 : R - 1); b++ :: else -> break od;
       next_submission[a] = R - 1; next_completion[a] = R - 1; lane_taken[a] = R - 1; lane_answered[a] = R - 1;
       b = 0;
       do :: b < THREADS -> run thread(a, b); b++ :: else -> break od;
       a++
    :: else -> break
    od
  }
}
