/**
 * How many calls a provider can take, found out from how it takes them, as a pure machine: `(state, event) => state`.
 *
 * Additive increase, multiplicative decrease. `AdaptiveConcurrency` feeds it and applies the limit.
 *
 * **Rules**
 *
 * - A refused call (overloaded, a rate limit, a timeout) multiplies the limit by `backoff`, once for all calls that were sent before it.
 * - After `window` answers, or as many as the limit when that is more, at most 100, the window is judged. When the median of its latencies is
 *   more than `tolerance` times the usual one, the limit is cut in proportion: by a tenth at least, to `backoff` at most. Otherwise, if the
 *   limit was nearly used up, it grows: by one up to where the last sign of congestion came and a fifth beyond, and by half from there on and
 *   until the first sign, because nobody knows where the next one is. So a limit that was cut in an incident is back soon after it.
 * - The usual latency follows the medians, quickly down and very slowly up. When five cuts in a row did not help, it is not our load that makes
 *   the provider slow, and its latency is taken as usual from then on.
 * - Latencies of different kinds are never compared. Each kind has a usual one of its own, and the slower kind counts.
 *
 * @since 0.1.0
 */

/**
 * The rules of one limit.
 *
 * @category models
 * @since 0.1.0
 */
export interface Settings {
  readonly min: number
  readonly max: number
  readonly initial: number
  readonly tolerance: number
  readonly backoff: number
  readonly window: number
}

/**
 * What a latency measures: the time to the first content of a stream, or the time for each token of a whole answer.
 *
 * @category models
 * @since 0.1.0
 */
export type Kind = "firstContent" | "perToken"

interface Track {
  readonly samples: ReadonlyArray<number>
  readonly usual: number | undefined
  /** How many windows in a row were too slow. */
  readonly slow: number
}

/**
 * What is known of a provider. `limit` has a fraction; {@link limitOf} is what to apply.
 *
 * @category models
 * @since 0.1.0
 */
export interface State {
  readonly limit: number
  readonly answers: number
  /** The most calls under way at a time, in this window. */
  readonly peak: number
  /** The limit at which the last sign of congestion came, zero when there was none. */
  readonly ceiling: number
  /** The moment of the last refusal that counted. */
  readonly cutAt: number
  readonly tracks: { readonly [kind in Kind]: Track }
}

/**
 * What can happen.
 *
 * **Details**
 *
 * - `Answered`: a call was answered. `inFlight` is how many were under way when it was sent; `latency` is absent when nothing can be said.
 * - `Rejected`: a call that was sent at `sentAt` was refused, or not answered in time.
 *
 * @category models
 * @since 0.1.0
 */
export type Event =
  | {
      readonly _tag: "Answered"
      readonly inFlight: number
      readonly latency: { readonly kind: Kind; readonly millis: number } | undefined
    }
  | { readonly _tag: "Rejected"; readonly sentAt: number; readonly now: number }

const unknown: Track = { samples: [], usual: undefined, slow: 0 }

/**
 * Returns the state for a provider of which nothing is known.
 *
 * @category constructors
 * @since 0.1.0
 */
export const initial = (settings: Settings): State => ({
  limit: settings.initial,
  answers: 0,
  peak: 0,
  ceiling: 0,
  cutAt: -Infinity,
  tracks: { firstContent: unknown, perToken: unknown }
})

/**
 * Returns how many calls may be under way.
 *
 * @category accessors
 * @since 0.1.0
 */
export const limitOf = (state: State): number => Math.floor(state.limit)

/**
 * Applies one event.
 *
 * @category combinators
 * @since 0.1.0
 */
export const step = (settings: Settings, state: State, event: Event): State => {
  if (event._tag === "Rejected") {
    // Whoever was sent before the last cut tells of the load that led to it.
    if (event.sentAt <= state.cutAt) return state
    const limit = Math.max(settings.min, state.limit * settings.backoff)
    return { ...emptied(state), limit, ceiling: state.limit, cutAt: event.now }
  }
  const { inFlight, latency } = event
  const next: State = {
    ...state,
    answers: state.answers + 1,
    peak: Math.max(state.peak, inFlight),
    tracks: latency === undefined ? state.tracks : withSample(state.tracks, latency.kind, latency.millis)
  }
  return next.answers < Math.min(100, Math.max(settings.window, limitOf(state))) ? next : judged(settings, next)
}

const emptied = (state: State): State => ({
  ...state,
  answers: 0,
  peak: 0,
  tracks: {
    firstContent: { ...state.tracks.firstContent, samples: [] },
    perToken: { ...state.tracks.perToken, samples: [] }
  }
})

const withSample = (tracks: State["tracks"], kind: Kind, millis: number): State["tracks"] => ({
  ...tracks,
  [kind]: { ...tracks[kind], samples: [...tracks[kind].samples, millis] }
})

const judged = (settings: Settings, state: State): State => {
  const firstContent = judgedTrack(settings, state.tracks.firstContent)
  const perToken = judgedTrack(settings, state.tracks.perToken)
  const next: State = {
    ...state,
    answers: 0,
    peak: 0,
    tracks: { firstContent: firstContent.track, perToken: perToken.track }
  }
  const excess = Math.max(firstContent.excess, perToken.excess)
  if (excess > 1) {
    const kept = Math.max(settings.backoff, Math.min(0.9, 1 / excess))
    return { ...next, limit: Math.max(settings.min, state.limit * kept), ceiling: state.limit }
  }
  // A limit that nobody came close to was not tested.
  if (state.peak < limitOf(state) * nearly) return next
  const beyond = state.limit > 1.2 * state.ceiling
  return { ...next, limit: Math.min(settings.max, beyond ? state.limit * 1.5 : state.limit + 1) }
}

const nearly = 0.8

// `excess` is how many times too slow the window was; up to 1 it was not.
const judgedTrack = (
  settings: Settings,
  { samples, slow, usual }: Track
): { readonly track: Track; readonly excess: number } => {
  // The median of few latencies says nothing: half a window is asked for.
  if (samples.length < settings.window / 2) return { track: { samples: [], slow, usual }, excess: 0 }
  const median = samples.toSorted((left, right) => left - right)[Math.floor(samples.length / 2)] ?? 0
  if (usual === undefined) return { track: { samples: [], slow: 0, usual: median }, excess: 0 }
  if (median > usual * settings.tolerance) {
    const given = slow + 1 === patience
    return {
      track: given ? { samples: [], slow: 0, usual: median } : { samples: [], slow: slow + 1, usual },
      excess: median / (usual * settings.tolerance)
    }
  }
  // What follows a rise under load would in the end call any latency usual. So only the smallest of rises are followed.
  const follow = median < usual ? 0.3 : median < usual * 1.2 ? 0.02 : 0
  return { track: { samples: [], slow: 0, usual: usual + follow * (median - usual) }, excess: 0 }
}

const patience = 5
