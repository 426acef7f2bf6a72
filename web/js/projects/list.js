// The list of projects.

import { buildQuery, get } from "../api.js";

const PAGE_SIZE = 100;

export class ProjectList {
  /** @type {Project[]} */
  list = [];

  /** Loads all projects and dispatches `projects` on the window. */
  async load() {
    /** @type {Project[]} */
    const list = [];
    for (let page = 1, pages = 1; page <= pages; page += 1) {
      const { projects, pagination } = await get(`/api/projects${buildQuery({ limit: PAGE_SIZE, page })}`);
      list.push(...projects);
      ({ pages } = pagination);
    }
    this.list = list;
    dispatchEvent(new Event("projects"));
  }

  /** @param {string | null | undefined} projectId */
  getName(projectId) {
    return this.list.find((project) => project.projectId === projectId)?.name;
  }
}
