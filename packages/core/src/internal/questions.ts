import type { Forgotten, Question, Stored } from "../QuestionStore.ts"
import * as Ages from "./ages.ts"
import * as ExtendibleMap from "./extendibleMap.ts"
import { heaviest, type Ranked } from "./heaviest.ts"

interface Held extends Ages.Aged<Held> {
  readonly stored: Stored
  readonly number: number
  readonly scope: Scope
}

interface Scope extends Ages.Ages<Held> {
  readonly name: string
  readonly questions: ExtendibleMap.ExtendibleMap<Held>
}

/**
 * The questions that are remembered: at most `maxEntries`, and no scope more than its share when it is full. A question that is remembered
 * again is as old as its last answer.
 */
export const remembering = (maxEntries: number) => {
  const all = ExtendibleMap.make<Held>()
  const scopes = ExtendibleMap.make<Ranked<Scope>>()
  const keys = ExtendibleMap.make<Set<Held>>()
  // Of equals the one with the oldest question.
  const largest = heaviest<Scope>((left, right) =>
    left.questions.size === right.questions.size
      ? (left.oldest?.number ?? 0) < (right.oldest?.number ?? 0)
      : left.questions.size > right.questions.size
  )
  let ids = 0
  let numbers = 0

  const remove = (held: Held): Stored => {
    const { scope, stored } = held
    ExtendibleMap.remove(all, stored.id)
    Ages.leave(scope, held)
    ExtendibleMap.remove(scope.questions, stored.canonical)
    const ranked = ExtendibleMap.get(scopes, scope.name)
    if (ranked !== undefined && scope.questions.size === 0) {
      largest.remove(ranked)
      ExtendibleMap.remove(scopes, scope.name)
    } else if (ranked !== undefined) largest.changed(ranked)
    const key = ExtendibleMap.get(keys, stored.key)
    key?.delete(held)
    if (key?.size === 0) ExtendibleMap.remove(keys, stored.key)
    return stored
  }

  const scopeOf = (name: string): Ranked<Scope> => {
    const known = ExtendibleMap.get(scopes, name)
    if (known !== undefined) return known
    const ranked = largest.add({ name, questions: ExtendibleMap.make(), oldest: undefined, newest: undefined })
    ExtendibleMap.set(scopes, name, ranked)
    return ranked
  }

  const insert = (stored: Stored): Stored => {
    const ranked = scopeOf(stored.scope)
    const held: Held = { stored, number: numbers++, scope: ranked.value, older: undefined, newer: undefined }
    ExtendibleMap.set(all, stored.id, held)
    Ages.join(ranked.value, held)
    ExtendibleMap.set(ranked.value.questions, stored.canonical, held)
    largest.changed(ranked)
    const key = ExtendibleMap.get(keys, stored.key)
    if (key === undefined) ExtendibleMap.set(keys, stored.key, new Set([held]))
    else key.add(held)
    return stored
  }

  const evict = (own: string): Stored | undefined => {
    const [mine, top] = [ExtendibleMap.get(scopes, own)?.value, largest.top()]
    const size = mine?.questions.size ?? 0
    const giving = size * scopes.size > maxEntries || size === top?.questions.size ? mine : top
    return giving?.oldest === undefined ? undefined : remove(giving.oldest)
  }

  return {
    size: () => all.size,
    get: (id: string) => ExtendibleMap.get(all, id)?.stored,
    has: (entry: Stored) => ExtendibleMap.get(all, entry.id) !== undefined,
    find: (scope: string, canonical: string) => {
      const questions = ExtendibleMap.get(scopes, scope)?.value.questions
      return questions === undefined ? undefined : ExtendibleMap.get(questions, canonical)?.stored
    },
    put: (question: Question) => {
      const { canonical, scope } = question
      const questions = ExtendibleMap.get(scopes, scope)?.value.questions
      const before = questions === undefined ? undefined : ExtendibleMap.get(questions, canonical)
      if (before !== undefined) {
        const replaced = remove(before)
        // The vector of the question is still right, whatever key it leads to now.
        const kept = replaced.question === question.question
        const entry = insert({ ...question, id: kept ? replaced.id : `${ids++}` })
        return { entry, dropped: kept ? [] : [replaced] }
      }
      const evicted = all.size >= maxEntries ? evict(scope) : undefined
      const entry = insert({ ...question, id: `${ids++}` })
      return { entry, dropped: evicted === undefined ? [] : [evicted] }
    },
    forget: (what: Forgotten): ReadonlyArray<Stored> => {
      if ("key" in what) return Array.from(ExtendibleMap.get(keys, what.key) ?? [], remove)
      const scope = ExtendibleMap.get(scopes, what.scope)?.value
      return scope === undefined ? [] : Array.from(Ages.all(scope), remove)
    }
  }
}
