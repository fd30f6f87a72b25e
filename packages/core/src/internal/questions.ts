import type { Forgotten, Question, Stored } from "../QuestionStore.ts"

/**
 * The questions that are remembered: at most `maxEntries`, and no scope more than its share when it is full. Insertion order is age: a question
 * that is remembered again is as old as its last answer.
 */
export const remembering = (maxEntries: number) => {
  const all = new Map<string, Stored>()
  const scopes = new Map<string, Map<string, Stored>>()
  const keys = new Map<string, Set<Stored>>()
  let ids = 0

  const remove = (entry: Stored): Stored => {
    all.delete(entry.id)
    const scope = scopes.get(entry.scope)
    scope?.delete(entry.canonical)
    if (scope?.size === 0) scopes.delete(entry.scope)
    const key = keys.get(entry.key)
    key?.delete(entry)
    if (key?.size === 0) keys.delete(entry.key)
    return entry
  }

  const insert = (entry: Stored): Stored => {
    all.set(entry.id, entry)
    const scope = scopes.get(entry.scope)
    if (scope === undefined) scopes.set(entry.scope, new Map([[entry.canonical, entry]]))
    else scope.set(entry.canonical, entry)
    const key = keys.get(entry.key)
    if (key === undefined) keys.set(entry.key, new Set([entry]))
    else key.add(entry)
    return entry
  }

  const evict = (own: string): Stored | undefined => {
    let largest = scopes.get(own)
    if (largest === undefined || largest.size * scopes.size <= maxEntries) {
      for (const scope of scopes.values()) if (scope.size > (largest?.size ?? 0)) largest = scope
    }
    const oldest = largest?.values().next().value
    return oldest === undefined ? undefined : remove(oldest)
  }

  return {
    size: () => all.size,
    get: (id: string) => all.get(id),
    has: (entry: Stored) => all.has(entry.id),
    find: (scope: string, canonical: string) => scopes.get(scope)?.get(canonical),
    put: (question: Question) => {
      const { canonical, scope } = question
      const before = scopes.get(scope)?.get(canonical)
      if (before !== undefined) {
        remove(before)
        // The vector of the question is still right, whatever key it leads to now.
        const kept = before.question === question.question
        const entry = insert({ ...question, id: kept ? before.id : `${ids++}` })
        return { entry, isNew: !kept, dropped: kept ? [] : [before] }
      }
      const evicted = all.size >= maxEntries ? evict(scope) : undefined
      const entry = insert({ ...question, id: `${ids++}` })
      return { entry, isNew: true, dropped: evicted === undefined ? [] : [evicted] }
    },
    forget: (what: Forgotten): ReadonlyArray<Stored> => {
      const gone = "scope" in what ? scopes.get(what.scope)?.values() : keys.get(what.key)?.values()
      return Array.from(gone ?? [], remove)
    }
  }
}
